-- What a redaction was applied to. One that wasn't isn't shown to clients.
ALTER TABLE events ADD COLUMN redacts text COLLATE "C";

UPDATE events r SET redacts = target.event_id FROM events target
WHERE target.redacted_by = r.event_id;
