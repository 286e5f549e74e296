-- Where a device of a user wants notifications to be sent. It ends with the device that set it.
CREATE TABLE pushers (
    pusher_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    pushkey text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    app_display_name text NOT NULL,
    device_display_name text NOT NULL,
    profile_tag text NOT NULL,
    lang text NOT NULL,
    data bytea NOT NULL,                 -- JSON
    set_ms bigint NOT NULL,
    cursor bigint NOT NULL,              -- the log's position up to which it was told of events
    badge bigint NOT NULL DEFAULT 0,     -- the number of unread notifications that it was told last
    failures integer NOT NULL DEFAULT 0, -- in a row
    failing_since_ms bigint,
    retry_at_ms bigint,
    UNIQUE (user_id, app_id, pushkey)
);
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
CREATE INDEX pushers_by_device ON pushers (user_id, device_id);
