-- Relations of events (`m.relates_to`), as columns: an event's place, verdict and redaction stay
-- where they are, and most events have none. A redacted event has no relation any more.
ALTER TABLE events ADD COLUMN relates_to text COLLATE "C";
ALTER TABLE events ADD COLUMN rel_type text COLLATE "C";
ALTER TABLE events ADD COLUMN edited_ms bigint;  -- origin_server_ts of an edit

-- The relations of stored events. JSON that PostgreSQL can't read (NUL, depth) has none: it would
-- have to be a relation that was never bundled.
CREATE FUNCTION pg_temp.relation_of(raw bytea) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    RETURN convert_from(raw, 'UTF8')::json -> 'content';
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

CREATE FUNCTION pg_temp.identifier(given json) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    read text;
BEGIN
    IF json_typeof(given) IS DISTINCT FROM 'string' THEN
        RETURN NULL;
    END IF;
    read := given #>> '{}';
    RETURN CASE WHEN octet_length(read) <= 255 THEN read END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

CREATE FUNCTION pg_temp.number(given json) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    RETURN (given #>> '{}')::bigint;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END $$;

CREATE FUNCTION pg_temp.member(given json, name text) RETURNS json LANGUAGE sql AS $$
    SELECT CASE WHEN json_typeof(given) = 'object' THEN given -> name END
$$;

WITH related AS MATERIALIZED (
    SELECT room_row_id, event_row_id, type, state_key, json,
        pg_temp.relation_of(json) AS content
    FROM events WHERE position('"m.relates_to"'::bytea IN json) > 0
), read AS MATERIALIZED (
    SELECT room_row_id, event_row_id, type, state_key, json, content,
        pg_temp.identifier(pg_temp.member(pg_temp.member(content, 'm.relates_to'), 'event_id'))
            AS relates_to,
        pg_temp.identifier(pg_temp.member(pg_temp.member(content, 'm.relates_to'), 'rel_type'))
            AS rel_type
    FROM related
)
UPDATE events SET relates_to = read.relates_to, rel_type = read.rel_type,
    edited_ms = CASE WHEN read.rel_type = 'm.replace' AND read.state_key IS NULL
        AND (read.type = 'm.room.encrypted'
            OR json_typeof(pg_temp.member(read.content, 'm.new_content')) = 'object')
        THEN pg_temp.number(convert_from(read.json, 'UTF8')::json -> 'origin_server_ts') END
FROM read
WHERE events.room_row_id = read.room_row_id AND events.event_row_id = read.event_row_id
    AND read.relates_to LIKE '$%' AND read.rel_type IS NOT NULL;

-- The children of an event, by their kind, in the room's order.
CREATE INDEX events_by_relation ON events (room_row_id, relates_to, rel_type, live_index, gap_index)
    WHERE relates_to IS NOT NULL AND live_index IS NOT NULL;

-- Edits, the newest last; a user's own annotations and messages in a thread.
CREATE INDEX events_by_related_sender
    ON events (room_row_id, relates_to, rel_type, sender, edited_ms, event_id)
    WHERE relates_to IS NOT NULL AND live_index IS NOT NULL;

-- The events of a room that are in threads, in the room's order.
CREATE INDEX events_in_threads ON events (room_row_id, live_index, gap_index)
    INCLUDE (relates_to, sender) WHERE rel_type = 'm.thread' AND live_index IS NOT NULL;
