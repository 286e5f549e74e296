-- Resolutions that changed a room's current state other than by the newest event itself, with what
-- they were made of: so that a state reset can be explained afterwards. The newest of each room.

CREATE TABLE resolutions (
    room_nid bigint NOT NULL,
    position bigint NOT NULL,             -- of the event that brought it about
    event_id text COLLATE "C" NOT NULL,
    made_ms bigint NOT NULL,
    state_before bigint NOT NULL,         -- snapshots: the current state until then
    state_after bigint NOT NULL,          -- and from then on
    branch_events text[] COLLATE "C" NOT NULL,
    branch_snapshots bigint[] NOT NULL,   -- the state after each of them
    PRIMARY KEY (room_nid, position)
);
