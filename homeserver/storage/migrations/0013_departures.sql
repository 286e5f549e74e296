-- Deactivated users who may still be in rooms, invited or knocking: they leave in the background.
CREATE TABLE departures (user_id text COLLATE "C" PRIMARY KEY);

INSERT INTO departures (user_id) SELECT user_id FROM accounts WHERE is_deactivated;

-- The log's position when a user asked for erasure: who joins a room later gets redacted events.
ALTER TABLE accounts ADD COLUMN erased_at bigint;
