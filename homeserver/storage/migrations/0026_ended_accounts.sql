-- The SHA-256 of the access token by which an account was ended: the request may be repeated.
ALTER TABLE accounts ADD COLUMN ended_by bytea;
CREATE UNIQUE INDEX accounts_ended_by ON accounts (ended_by);
