-- Backups of room keys, encrypted by clients. A deleted backup leaves its row without content: its
-- version is never given out again, and a repeated deletion isn't an error.
CREATE TABLE key_backups (
    user_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,             -- counted for each user
    algorithm text COLLATE "C" NOT NULL,
    auth_data bytea NOT NULL,            -- JSON
    etag bigint NOT NULL DEFAULT 0,      -- the number of changes of its keys
    keys bigint NOT NULL DEFAULT 0,      -- how many keys it has
    bytes bigint NOT NULL DEFAULT 0,     -- of their session_data
    is_deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE key_backup_keys (
    user_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    session_id text COLLATE "C" NOT NULL,
    first_message_index bigint NOT NULL,
    forwarded_count bigint NOT NULL,
    is_verified boolean NOT NULL,
    session_data bytea NOT NULL,         -- JSON
    PRIMARY KEY (user_id, version, room_id, session_id)
);
