-- Names of rooms: our aliases, and the rooms that this server publishes.

CREATE TABLE aliases (
    alias text COLLATE "C" PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL,
    creator text COLLATE "C" NOT NULL,
    created_ms bigint NOT NULL
);
CREATE INDEX aliases_by_room ON aliases (room_id);

CREATE TABLE published_rooms (
    room_id text COLLATE "C" PRIMARY KEY,
    published_by text COLLATE "C" NOT NULL,
    published_ms bigint NOT NULL
);
