-- Users as the providers of single sign-on know them. subject: what the provider never gives to
-- another user.
CREATE TABLE sso_users (
    provider text COLLATE "C" NOT NULL,
    subject text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (provider, subject)
);
CREATE INDEX sso_users_by_user ON sso_users (user_id);
