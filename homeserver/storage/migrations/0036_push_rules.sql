-- A user's changes of the default push rules, as JSON; no row: none. The whole ruleset, as clients
-- get it, is account data.
CREATE TABLE push_rules (
    user_id text COLLATE "C" PRIMARY KEY,
    rules bytea NOT NULL
);
