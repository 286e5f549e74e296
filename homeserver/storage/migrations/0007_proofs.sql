-- Verdicts on another server's word (`events.unproven`), to be made again once the events' parents
-- are here and proven.

-- What such an event names as its parents.
CREATE TABLE unproven_parents (
    room_nid bigint NOT NULL,
    parent text COLLATE "C" NOT NULL,
    event_nid bigint NOT NULL,
    missing boolean NOT NULL,   -- the parent has no place here
    PRIMARY KEY (room_nid, parent, event_nid)
);
CREATE INDEX unproven_parents_by_event ON unproven_parents (room_nid, event_nid);
CREATE INDEX unproven_parents_missing ON unproven_parents (room_nid, parent) WHERE missing;

-- Those that are to be looked at again.
CREATE TABLE proofs_due (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
);

-- An event whose keys PostgreSQL can't read (NUL) has none then: it is looked at once.
CREATE FUNCTION pg_temp.parents_of(event bytea) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
        SELECT CASE json_typeof(one) WHEN 'array' THEN one ->> 0 ELSE one #>> '{}' END
        FROM json_array_elements(convert_from(event, 'UTF8')::json -> 'prev_events') AS one;
EXCEPTION WHEN data_exception OR program_limit_exceeded THEN
    RETURN;
END $$;

INSERT INTO unproven_parents (room_nid, parent, event_nid, missing)
SELECT e.room_nid, p.parent, e.event_nid,
    NOT EXISTS (SELECT FROM events k WHERE k.event_id = p.parent AND NOT k.outlier)
FROM events e CROSS JOIN LATERAL pg_temp.parents_of(e.json) AS p (parent)
WHERE e.unproven AND NOT e.outlier
ON CONFLICT DO NOTHING;

INSERT INTO proofs_due (room_nid, event_nid)
SELECT e.room_nid, e.event_nid FROM events e
WHERE e.unproven AND NOT e.outlier AND NOT EXISTS (
    SELECT FROM unproven_parents u
    WHERE u.room_nid = e.room_nid AND u.event_nid = e.event_nid AND u.missing
);
