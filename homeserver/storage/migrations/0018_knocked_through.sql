-- The server that took a user's knock at a room that we aren't in: it is asked to take it back.
ALTER TABLE memberships ADD COLUMN via text COLLATE "C";
