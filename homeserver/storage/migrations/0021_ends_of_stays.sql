-- How users ceased to be in rooms: who left reads what came before, and nothing after.
CREATE INDEX state_changes_ends_of_stays ON state_changes (room_nid, state_key, position)
    WHERE type = 'm.room.member' AND former = 'join' AND membership IS DISTINCT FROM 'join';
