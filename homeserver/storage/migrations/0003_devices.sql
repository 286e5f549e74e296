-- Keys of devices, lists of devices, messages to devices, receipts, account data, filters.
-- JSON is bytea, never jsonb. Positions are those of the log. Rows of devices are in 0002.

-- Identity keys of devices of ours, as uploaded.
CREATE TABLE device_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    keys bytea NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE one_time_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    sequence bigint GENERATED ALWAYS AS IDENTITY,
    key bytea NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);

-- One for each algorithm; `used` since it was handed out, until it is replaced.
CREATE TABLE fallback_keys (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    algorithm text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    used boolean NOT NULL DEFAULT false,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- `usage` is master, self_signing or user_signing.
CREATE TABLE cross_signing_keys (
    user_id text COLLATE "C" NOT NULL,
    usage text COLLATE "C" NOT NULL,
    public_key text COLLATE "C" NOT NULL,
    key bytea NOT NULL,
    PRIMARY KEY (user_id, usage)
);

-- Signatures by /keys/signatures/upload: `target` is a device ID or a master key's public part.
CREATE TABLE key_signatures (
    user_id text COLLATE "C" NOT NULL,
    target text COLLATE "C" NOT NULL,
    signer text COLLATE "C" NOT NULL,
    key_id text COLLATE "C" NOT NULL,
    signature text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, target, signer, key_id)
);

-- Which users' devices or cross-signing keys changed when, ours and remote ones. For ours,
-- `devices` and `cross_signing` say what changed; `previous` is the position of the change before.
CREATE TABLE device_list_changes (
    position bigint PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    devices text[] NOT NULL DEFAULT '{}',
    cross_signing boolean NOT NULL DEFAULT false,
    previous bigint
);
CREATE INDEX device_list_changes_user ON device_list_changes (user_id, position);

-- Filled by a unit's work and emptied by its append, in one transaction: never seen outside.
CREATE TABLE device_list_touched (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL, -- '' for cross-signing keys
    PRIMARY KEY (user_id, device_id)
);

-- Lists of remote users that we keep; `seen` are the newest stream IDs that we know of.
CREATE TABLE remote_device_lists (
    user_id text COLLATE "C" PRIMARY KEY,
    seen bigint[] NOT NULL DEFAULT '{}',
    master_key bytea,
    self_signing_key bytea
);

CREATE TABLE remote_devices (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    keys bytea,
    display_name text COLLATE "C",
    PRIMARY KEY (user_id, device_id)
);

-- Lists that must be fetched again; tried until it succeeds.
CREATE TABLE device_list_resyncs (
    user_id text COLLATE "C" PRIMARY KEY,
    attempts integer NOT NULL DEFAULT 0,
    retry_at_ms bigint NOT NULL
);

CREATE TABLE to_device_messages (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    message bytea NOT NULL,
    PRIMARY KEY (user_id, device_id, position)
);

CREATE TABLE to_device_transactions (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    transaction_id text COLLATE "C" NOT NULL,
    sent_ms bigint NOT NULL,
    PRIMARY KEY (user_id, device_id, event_type, transaction_id)
);
CREATE INDEX to_device_transactions_sent ON to_device_transactions (sent_ms);

-- Messages to devices that other servers sent, against repeats.
CREATE TABLE remote_to_device_seen (
    origin text COLLATE "C" NOT NULL,
    message_id text COLLATE "C" NOT NULL,
    received_ms bigint NOT NULL,
    PRIMARY KEY (origin, message_id)
);
CREATE INDEX remote_to_device_seen_received ON remote_to_device_seen (received_ms);

CREATE TABLE remote_edus (
    destination text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    edu bytea NOT NULL,
    PRIMARY KEY (destination, position)
);

CREATE TABLE receipts (
    room_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    thread text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    ts bigint NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (room_id, user_id, kind, thread)
);
CREATE INDEX receipts_position ON receipts (room_id, position);

-- Global account data has room_id ''.
CREATE TABLE account_data (
    user_id text COLLATE "C" NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    content bytea NOT NULL,
    position bigint NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
);
CREATE INDEX account_data_position ON account_data (user_id, position);

CREATE TABLE filters (
    user_id text COLLATE "C" NOT NULL,
    filter_id bigint NOT NULL,
    content bytea NOT NULL,
    PRIMARY KEY (user_id, filter_id)
);
