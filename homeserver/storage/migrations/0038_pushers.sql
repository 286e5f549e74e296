-- Where a device of a user wants notifications to be sent. It ends with the device that set it.
CREATE TABLE pushers (
    pusher_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    app_id text COLLATE "C" NOT NULL,
    pushkey text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL,
    app_display_name text NOT NULL,
    device_display_name text NOT NULL,
    profile_tag text NOT NULL,
    lang text NOT NULL,
    data bytea NOT NULL,                 -- JSON
    set_ms bigint NOT NULL,
    cursor bigint NOT NULL,              -- the log's position up to which it was told of events
    badge bigint NOT NULL DEFAULT 0,     -- the number of unread notifications that it was told last
    failures integer NOT NULL DEFAULT 0, -- in a row
    failing_since_ms bigint,
    retry_at_ms bigint,
    -- of the kind email: in a row, when the last one was sent, and what its link has
    mails integer NOT NULL DEFAULT 0,
    mailed_ms bigint NOT NULL DEFAULT 0,
    secret uuid NOT NULL DEFAULT gen_random_uuid(),
    UNIQUE (user_id, app_id, pushkey)
);
CREATE INDEX pushers_by_key ON pushers (app_id, pushkey);
CREATE INDEX pushers_by_secret ON pushers (secret);
CREATE INDEX pushers_by_device ON pushers (user_id, device_id);

-- Notifications of users who have pushers, until all of these were told. position: of the log.
CREATE TABLE owed_pushes (
    user_id text COLLATE "C" NOT NULL,
    position bigint NOT NULL,
    room_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C" NOT NULL,
    actions bytea NOT NULL,              -- of the rule, as JSON
    owed_ms bigint NOT NULL,
    PRIMARY KEY (user_id, position)
);
CREATE INDEX owed_pushes_by_age ON owed_pushes (owed_ms);
