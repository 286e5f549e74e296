-- Rooms, events, state and the log.
--
-- Room tables have the room first in their key, so that a room is a range of each. Numbers (nid)
-- come from one sequence in blocks and are never reused. Event JSON is bytes, never jsonb.

CREATE SEQUENCE nids AS bigint INCREMENT BY 1000;

-- One row a log: who owns it (epoch) and how far it is. Each commit moves `position`.
CREATE TABLE logs (
    log smallint PRIMARY KEY,
    history text NOT NULL,      -- random; another one after a restore
    epoch bigint NOT NULL,
    position bigint NOT NULL
) WITH (fillfactor = 10);

CREATE TABLE rooms (
    room_nid bigint PRIMARY KEY,
    room_id text COLLATE "C" NOT NULL UNIQUE,
    version text NOT NULL
);

-- The room's forward extremities and current state; no row: known by its ID alone (an invite).
CREATE TABLE room_heads (
    room_nid bigint PRIMARY KEY,
    heads bigint[] NOT NULL,
    snapshot_nid bigint NOT NULL,
    n bigint NOT NULL,          -- room order of the newest event
    position bigint NOT NULL    -- log position of the newest event
) WITH (fillfactor = 40);

CREATE TABLE events (
    room_nid bigint NOT NULL,
    event_nid bigint NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C",
    sender text COLLATE "C" NOT NULL,
    membership text COLLATE "C",          -- of an m.room.member event
    position bigint,                      -- null: not released to clients
    n bigint,                             -- room order; null: no place in the room
    fill bigint,
    verdict smallint NOT NULL,            -- 0 accepted, 1 soft-failed, 2 rejected
    reason text,                          -- why not accepted
    outlier boolean NOT NULL,
    unproven boolean NOT NULL,            -- the state before it is another server's word
    to_federate boolean NOT NULL,
    snapshot_before bigint,
    snapshot_after bigint,
    replaces text COLLATE "C",            -- the state event that it replaced
    redacted_by text COLLATE "C",
    transaction_of text COLLATE "C",      -- user, device and transaction ID of a client's send
    json bytea NOT NULL,
    PRIMARY KEY (room_nid, event_nid)
);
CREATE UNIQUE INDEX events_by_id ON events (event_id);
CREATE INDEX events_by_order ON events (room_nid, n, fill) WHERE n IS NOT NULL;

-- State as deltas to an ancestor: `added` and `removed` are events, whose rows give the keys.
CREATE TABLE snapshots (
    room_nid bigint NOT NULL,
    snapshot_nid bigint NOT NULL,
    base_nid bigint,
    ordinal bigint NOT NULL,
    incomplete boolean NOT NULL DEFAULT false,
    added bigint[] NOT NULL,
    removed bigint[] NOT NULL,
    PRIMARY KEY (room_nid, snapshot_nid)
);

-- Each change of current state, in log order.
CREATE TABLE state_changes (
    room_nid bigint NOT NULL,
    position bigint NOT NULL,
    type text COLLATE "C" NOT NULL,
    state_key text COLLATE "C" NOT NULL,
    event_id text COLLATE "C",
    membership text COLLATE "C",
    PRIMARY KEY (room_nid, position, type, state_key)
);

CREATE TABLE memberships (
    room_nid bigint NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    membership text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    sender text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    forgotten boolean NOT NULL DEFAULT false,
    stripped bytea,             -- an invite or knock to a room that we aren't in
    event bytea,
    PRIMARY KEY (room_nid, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id);

-- From which to which position a server was in a room: what it is owed follows.
CREATE TABLE room_servers (
    room_nid bigint NOT NULL,
    server text COLLATE "C" NOT NULL,
    joined_position bigint NOT NULL,
    left_position bigint,
    PRIMARY KEY (room_nid, server, joined_position)
);
CREATE INDEX room_servers_by_server ON room_servers (server);

-- What a client's transaction ID led to. `key` is a hash of path and transaction ID.
CREATE TABLE client_transactions (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    sent_on date NOT NULL DEFAULT CURRENT_DATE,
    PRIMARY KEY (user_id, device_id, key)
);

-- Redactions whose target isn't here yet.
CREATE TABLE pending_redactions (
    room_nid bigint NOT NULL,
    target text COLLATE "C" NOT NULL,
    redaction text COLLATE "C" NOT NULL,
    PRIMARY KEY (room_nid, target, redaction)
);

-- Events named as prev_events that aren't here: where history is missing, and below which event.
CREATE TABLE gaps (
    room_nid bigint NOT NULL,
    missing text COLLATE "C" NOT NULL,
    n bigint NOT NULL,
    fill bigint NOT NULL,
    PRIMARY KEY (room_nid, missing)
);
