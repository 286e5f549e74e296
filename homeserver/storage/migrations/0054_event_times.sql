-- When an event says that it was sent, for searches by time.
ALTER TABLE events ADD COLUMN sent_ms bigint;

-- JSON that PostgreSQL can't read (NUL, depth) has no time, and isn't found.
CREATE FUNCTION pg_temp.sent_ms(raw bytea) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (convert_from(raw, 'UTF8')::json ->> 'origin_server_ts')::bigint;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;
UPDATE events SET sent_ms = pg_temp.sent_ms(json);

CREATE INDEX events_by_time ON events (room_row_id, sent_ms, live_index, gap_index)
    WHERE live_index IS NOT NULL;
