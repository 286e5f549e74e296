-- The user directory: every user who is joined to a room of this server, as the search finds them.
-- The tokens are made by the server, so that the index works in every script and database locale.
CREATE TABLE user_directory (
    user_id text COLLATE "C" PRIMARY KEY,
    display_name text NOT NULL,
    avatar_url text NOT NULL,
    tokens text[] COLLATE "C" NOT NULL
);
CREATE INDEX user_directory_by_token ON user_directory USING gin (tokens);

-- Rooms whose members are in the directory, and whether everybody may find them through the room.
CREATE TABLE user_directory_rooms (
    room_row_id bigint PRIMARY KEY,
    is_public boolean NOT NULL
);

-- The position of the log up to which the directory is up to date.
CREATE TABLE user_directory_position (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    position bigint NOT NULL
);
