-- Redacted events that may still be in the counts of unread notifications. Rows are written with the
-- redaction, and go when the counts, which follow later, have taken the event back. No key: a writer
-- never waits for the reader that deletes.
CREATE TABLE push_redactions (
    room_row_id bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL
);
CREATE INDEX push_redactions_by_id ON push_redactions (event_id);
