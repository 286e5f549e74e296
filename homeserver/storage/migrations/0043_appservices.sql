-- How far application services have been sent the log. A transaction that was made is kept with its
-- ID until the service has it: a repeat must not differ.
CREATE TABLE appservices (
    appservice_id text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    transaction_id text COLLATE "C",
    body bytea
);

-- The log by its positions, for a service that is behind. Rows come nearly in their order, for which
-- such an index has a few bytes for each of many rows.
CREATE INDEX events_by_position ON events
    USING brin (position) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX state_changes_by_position ON state_changes
    USING brin (position) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX to_device_messages_by_position ON to_device_messages
    USING brin (position) WITH (pages_per_range = 16, autosummarize = on);
CREATE INDEX memberships_outside ON memberships (position) WHERE event IS NOT NULL;
