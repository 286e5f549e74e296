-- What federation must remember: received events that wait, cursors of destinations, other
-- servers' keys. Events are bytea, as received. Times are milliseconds since 1970.

-- Received PDUs that wait for what they lack: one queue for each room, in order of `place`.
CREATE SEQUENCE inbox_places;
CREATE TABLE inbox (
    room_id text NOT NULL,
    event_id text NOT NULL,
    place bigint NOT NULL DEFAULT nextval('inbox_places'),
    origin text NOT NULL,
    pdu bytea NOT NULL,
    version text NOT NULL,
    received_ms bigint NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (room_id, event_id)
);
CREATE INDEX inbox_by_place ON inbox (room_id, place);

-- How far other servers are served (`position` is the log's), and how they answer.
CREATE TABLE destinations (
    server text PRIMARY KEY,
    position bigint NOT NULL,
    failing_since_ms bigint,
    retry_at_ms bigint,
    interval_ms bigint NOT NULL DEFAULT 0,
    last_error text NOT NULL DEFAULT ''
);

-- Published signing keys of other servers; `expired_ms` of keys that are no longer in use.
CREATE TABLE server_keys (
    server text NOT NULL,
    key_id text NOT NULL,
    key text NOT NULL,
    valid_until_ms bigint NOT NULL,
    expired_ms bigint,
    PRIMARY KEY (server, key_id)
);
