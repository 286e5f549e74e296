-- The membership that a change of state replaced: only who was joined can leave.
ALTER TABLE state_changes ADD COLUMN former text COLLATE "C";

UPDATE state_changes c SET former = before.membership
FROM events e JOIN events before ON before.event_id = e.replaces
WHERE c.type = 'm.room.member' AND e.event_id = c.event_id;
