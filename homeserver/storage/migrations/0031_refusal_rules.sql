-- The auth rule that refused an event, by its name. Of events that are stored already it is set where
-- a decision depends on it: a join that the authorising server hadn't signed stays refused.
ALTER TABLE events ADD COLUMN rule text COLLATE "C";
UPDATE events SET rule = 'join_unsigned_by_authoriser'
    WHERE verdict = 2 AND starts_with(reason, 'join_unsigned_by_authoriser');
