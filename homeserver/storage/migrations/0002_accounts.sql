-- Accounts, their devices and access tokens, profiles, registration tokens.

-- password_hash: Argon2id's text; null for guests and deactivated accounts.
CREATE TABLE accounts (
    user_id text COLLATE "C" PRIMARY KEY,
    password_hash text,
    created_ms bigint NOT NULL,
    is_guest boolean NOT NULL DEFAULT false,
    is_deactivated boolean NOT NULL DEFAULT false
);

CREATE TABLE devices (
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    display_name text,
    created_ms bigint NOT NULL,
    last_seen_ms bigint NOT NULL,
    last_seen_address text NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- hash: SHA-256 of the token, which itself is never stored.
CREATE TABLE access_tokens (
    token_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL
);
CREATE INDEX access_tokens_by_device ON access_tokens (user_id, device_id);

-- value: JSON.
CREATE TABLE profiles (
    user_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (user_id, key)
);

-- uses_allowed, expires_ms: null for no bound.
CREATE TABLE registration_tokens (
    token text COLLATE "C" PRIMARY KEY,
    uses_allowed integer,
    uses integer NOT NULL DEFAULT 0,
    expires_ms bigint
);
