-- Joins, knocks and leaves that another server signs or takes in: written before it may, deleted
-- once both sides agree.
CREATE TABLE handshake_intents (
    user_id text COLLATE "C" NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    membership text COLLATE "C" NOT NULL,  -- join, knock or leave
    former text COLLATE "C" NOT NULL,      -- the event of the invite or knock that a leave ends
    servers text[] NOT NULL,
    content bytea NOT NULL,                -- of the member event: JSON
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, room_id)
);
