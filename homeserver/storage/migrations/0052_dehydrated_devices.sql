-- A dehydrated device has no access token: it receives messages while its user is logged in nowhere,
-- and a later client takes its private keys out of this, which only the user's clients can decrypt.
ALTER TABLE devices ADD COLUMN dehydrated bytea;
CREATE UNIQUE INDEX devices_dehydrated ON devices (user_id) WHERE dehydrated IS NOT NULL;
