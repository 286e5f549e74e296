-- Accounts that are locked, suspended, or a server administrator's.
ALTER TABLE accounts
    ADD COLUMN is_locked boolean NOT NULL DEFAULT false,
    ADD COLUMN is_suspended boolean NOT NULL DEFAULT false,
    ADD COLUMN is_admin boolean NOT NULL DEFAULT false;

-- expires_ms: null for never. is_next: made by a refresh, and not used yet.
ALTER TABLE access_tokens
    ADD COLUMN expires_ms bigint,
    ADD COLUMN is_next boolean NOT NULL DEFAULT false;

-- hash: SHA-256 of the token. state: 'current'; 'next', which the current one was exchanged for and
-- which isn't used yet; 'spent', the one before the current one.
CREATE TABLE refresh_tokens (
    hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    device_id text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL,
    UNIQUE (user_id, device_id, state)
);

-- hash: SHA-256 of the token.
CREATE TABLE openid_tokens (
    hash bytea PRIMARY KEY,
    user_id text COLLATE "C" NOT NULL,
    expires_ms bigint NOT NULL
);
CREATE INDEX openid_tokens_by_user ON openid_tokens (user_id, expires_ms);
