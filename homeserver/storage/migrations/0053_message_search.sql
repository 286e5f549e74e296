-- The index of messages: the terms of an event's text, which the server makes, so that it works in
-- every script and database locale. `sent_ms` orders results across rooms: when the event says that
-- it was sent, at most when it was indexed. Sender and type are those of the event: a search doesn't
-- read all events that have its terms.
CREATE TABLE search_events (
    room_row_id bigint NOT NULL,
    event_row_id bigint NOT NULL,
    sent_ms bigint NOT NULL,
    sender text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    terms tsvector NOT NULL,
    PRIMARY KEY (room_row_id, event_row_id)
);
CREATE INDEX search_events_by_term ON search_events USING gin (terms);
-- For words that many events have.
CREATE INDEX search_events_by_time ON search_events (sent_ms, event_row_id);

-- The position of the log up to which events are indexed.
CREATE TABLE search_position (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    position bigint NOT NULL
);

-- Events that have no position in the log, and wait to be indexed: history fetched from others.
CREATE TABLE search_waiting (
    room_row_id bigint NOT NULL,
    event_row_id bigint NOT NULL,
    PRIMARY KEY (room_row_id, event_row_id)
);
INSERT INTO search_waiting
SELECT room_row_id, event_row_id FROM events
WHERE position IS NULL AND live_index IS NOT NULL
    AND type IN ('m.room.message', 'm.room.name', 'm.room.topic');
