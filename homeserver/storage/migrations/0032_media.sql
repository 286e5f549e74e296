-- Contents of the blob store, named by their SHA-256. The row is there before the content is put
-- into the store, and goes after it: what may be in the store has a row.
CREATE TABLE media_blobs (
    sha256 bytea PRIMARY KEY CHECK (octet_length(sha256) = 32),
    size bigint NOT NULL,
    reference_count bigint NOT NULL DEFAULT 0 CHECK (reference_count >= 0),
    written_ms bigint NOT NULL,          -- when somebody last began to put it into the store
    is_deleting boolean NOT NULL DEFAULT false -- it is being deleted, and can't be referred to
);
CREATE INDEX media_blobs_unreferenced ON media_blobs (sha256) WHERE reference_count = 0;

-- Counts the references of any table with a column `sha256` (NULL: none). A table that refers to
-- contents has that column with `REFERENCES media_blobs`, an index on it, and this trigger.
CREATE FUNCTION media_count_references() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.sha256 IS NOT DISTINCT FROM OLD.sha256 THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.sha256 IS NOT NULL THEN
        UPDATE media_blobs SET reference_count = reference_count + 1
            WHERE sha256 = NEW.sha256 AND NOT is_deleting;
        IF NOT FOUND THEN
            RAISE foreign_key_violation USING MESSAGE = 'the content is being deleted';
        END IF;
    END IF;
    IF TG_OP <> 'INSERT' AND OLD.sha256 IS NOT NULL THEN
        UPDATE media_blobs SET reference_count = reference_count - 1 WHERE sha256 = OLD.sha256;
    END IF;
    RETURN NULL;
END $$;

-- Media by their mxc URI, of this server and of others (then it is a cache).
CREATE TABLE media (
    origin text COLLATE "C" NOT NULL,    -- the server in the URI
    media_id text COLLATE "C" NOT NULL,
    uploader text COLLATE "C",           -- a user of this server; NULL: of another, or no user's
    content_type text NOT NULL,
    file_name text,
    sha256 bytea REFERENCES media_blobs, -- NULL: not uploaded yet, or its content was let go
    size bigint,                         -- bytes; NULL where sha256 is
    created_ms bigint NOT NULL,          -- when the ID was given out; with content, when that came
    last_access_ms bigint NOT NULL,      -- to the hour
    expires_ms bigint,                   -- the end of an ID that waits for its content, else NULL
    needs_token boolean NOT NULL,        -- the paths without authentication don't serve it
    is_quarantined boolean NOT NULL DEFAULT false,
    PRIMARY KEY (origin, media_id),
    CHECK ((sha256 IS NULL) = (size IS NULL)),
    CHECK (sha256 IS NULL OR expires_ms IS NULL)
);
CREATE INDEX media_by_content ON media (sha256);
CREATE INDEX media_by_uploader ON media (uploader, created_ms) INCLUDE (size)
    WHERE uploader IS NOT NULL;
CREATE INDEX media_by_access ON media (last_access_ms);
CREATE INDEX media_reserved ON media (expires_ms) WHERE expires_ms IS NOT NULL;
CREATE TRIGGER media_references AFTER INSERT OR UPDATE OF sha256 OR DELETE ON media
    FOR EACH ROW EXECUTE FUNCTION media_count_references();

-- Contents that nobody is served, whatever their URI, also when they are uploaded again.
CREATE TABLE media_quarantined_contents (
    sha256 bytea PRIMARY KEY CHECK (octet_length(sha256) = 32)
);
