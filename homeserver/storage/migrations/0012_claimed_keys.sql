-- One-time keys that were handed out, as long as their device lives: a repeated upload, whose first
-- answer was lost, brings none of them back. `digest` is of the key without signatures.
CREATE TABLE claimed_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);
