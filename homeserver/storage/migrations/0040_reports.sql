-- What users reported to the operator. kind: 'event', 'room' or 'user'. Of an event there are both
-- IDs; of a room or user the one. resolved_ms: null while it is open.
CREATE TABLE reports (
    report_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    reporter text COLLATE "C" NOT NULL,
    room_id text COLLATE "C",
    event_id text COLLATE "C",
    user_id text COLLATE "C",
    reason text NOT NULL,
    created_ms bigint NOT NULL,
    resolved_ms bigint,
    note text
);
CREATE INDEX reports_open_by_reporter ON reports (reporter) WHERE resolved_ms IS NULL;
CREATE INDEX reports_resolved ON reports (resolved_ms) WHERE resolved_ms IS NOT NULL;
