-- Thumbnails of contents, each made once. They go with the content that they show.
CREATE TABLE media_thumbnails (
    source bytea NOT NULL REFERENCES media_blobs ON DELETE CASCADE,
    method text COLLATE "C" NOT NULL,
    width integer NOT NULL,              -- of the shape, not of the thumbnail
    height integer NOT NULL,
    is_animated boolean NOT NULL,        -- whether an animation was asked for
    maker text COLLATE "C" NOT NULL,     -- the server that made it; '' for this one
    content_type text COLLATE "C" NOT NULL,
    sha256 bytea REFERENCES media_blobs, -- NULL: the source itself is the thumbnail
    size bigint,                         -- bytes; NULL where sha256 is
    PRIMARY KEY (source, method, width, height, is_animated, maker),
    CHECK ((sha256 IS NULL) = (size IS NULL))
);
CREATE INDEX media_thumbnails_by_content ON media_thumbnails (sha256);
CREATE TRIGGER media_thumbnails_references
    AFTER INSERT OR UPDATE OF sha256 OR DELETE ON media_thumbnails
    FOR EACH ROW EXECUTE FUNCTION media_count_references();

-- Previews of pages: each row is what was found at one time. Older ones stay for as long as clients
-- may show their pictures.
CREATE TABLE url_previews (
    url text COLLATE "C" NOT NULL,
    fetched_ms bigint NOT NULL,
    preview bytea NOT NULL,              -- JSON
    media_id text COLLATE "C",           -- of this server: the picture, if there is one
    PRIMARY KEY (url, fetched_ms)
);
CREATE INDEX url_previews_by_time ON url_previews (fetched_ms);
