-- Rooms in the directories that application services keep for networks of theirs.
CREATE TABLE network_rooms (
    appservice_id text COLLATE "C" NOT NULL,
    network_id text COLLATE "C" NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    published_ms bigint NOT NULL,
    PRIMARY KEY (appservice_id, network_id, room_id)
);
CREATE INDEX network_rooms_by_room ON network_rooms (room_id);
