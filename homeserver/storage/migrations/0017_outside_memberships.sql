-- The room version of an invite or knock to a room that we aren't in: what ends it is read by that.
ALTER TABLE memberships ADD COLUMN version text COLLATE "C";
