-- Unread notifications. Everything here follows the log, up to `push_position`.
--
-- An event that notifies somebody: the level of most users who were in the room (0 silent,
-- 1 notified, 2 highlighted), and the users who have another one.
CREATE TABLE push_events (
    room_id text COLLATE "C" NOT NULL,
    live_index bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    thread text COLLATE "C" NOT NULL,        -- main, or the thread's root
    usual smallint NOT NULL,
    other_users text[] COLLATE "C" NOT NULL,
    other_levels smallint[] NOT NULL,
    PRIMARY KEY (room_id, live_index)
);
CREATE INDEX push_events_by_id ON push_events (event_id);

-- Up to which place the events of a room are in `push_counts`, and whether there are later ones.
CREATE TABLE push_rooms (
    room_id text COLLATE "C" PRIMARY KEY,
    summed_to bigint NOT NULL,
    is_pending boolean NOT NULL
);
CREATE INDEX push_rooms_pending ON push_rooms (room_id) WHERE is_pending;

-- How far a user has read a room: all of it (thread ''), and threads. `counted_to`: up to which
-- place the user's counts are those of all events, beyond `summed_to` of the room.
CREATE TABLE push_reads (
    room_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    thread text COLLATE "C" NOT NULL,
    read_to bigint NOT NULL,
    counted_to bigint NOT NULL,
    PRIMARY KEY (room_id, user_id, thread)
);
CREATE INDEX push_reads_by_user ON push_reads (user_id);

-- Counts of a user in a room, by thread; no row: none.
CREATE TABLE push_counts (
    room_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    thread text COLLATE "C" NOT NULL,
    notified bigint NOT NULL,
    highlighted bigint NOT NULL,
    PRIMARY KEY (room_id, user_id, thread)
) WITH (fillfactor = 70);
CREATE INDEX push_counts_by_user ON push_counts (user_id);

CREATE TABLE push_position (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    position bigint NOT NULL
);
