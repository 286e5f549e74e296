-- Third-party identifiers of accounts. address: the canonical form, by which two are compared.
CREATE TABLE third_party_ids (
    medium text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    validated_ms bigint NOT NULL,
    added_ms bigint NOT NULL,
    PRIMARY KEY (medium, address)
);
CREATE INDEX third_party_ids_by_user ON third_party_ids (user_id);

-- What was bound through this server, so that it can be unbound later.
CREATE TABLE third_party_bindings (
    user_id text COLLATE "C" NOT NULL,
    medium text COLLATE "C" NOT NULL,
    address text COLLATE "C" NOT NULL,
    id_server text COLLATE "C" NOT NULL,
    PRIMARY KEY (user_id, medium, address, id_server)
);

-- Proofs under way, and made, that somebody owns an address; each for one purpose. secret_hash,
-- token_hash: SHA-256 of the client's secret and of the token in the newest mail (null: used, or
-- none was sent). validated_ms: null until the token came back.
CREATE TABLE validations (
    sid text COLLATE "C" PRIMARY KEY,
    purpose text NOT NULL,
    address text COLLATE "C" NOT NULL,
    secret_hash bytea NOT NULL,
    send_attempt bigint NOT NULL,
    token_hash bytea,
    next_link text,
    expires_ms bigint NOT NULL,
    validated_ms bigint,
    UNIQUE (purpose, address, secret_hash)
);
CREATE INDEX validations_by_expiry ON validations (expires_ms);

-- The versions of policies that users accepted when they registered.
CREATE TABLE accepted_policies (
    user_id text COLLATE "C" NOT NULL,
    policy text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    accepted_ms bigint NOT NULL,
    PRIMARY KEY (user_id, policy, version)
);
