"""Media: their contents in a blob store (local disk or S3), and what is known about them.

How the parts fit, for all that keep contents (uploads, media of other servers, thumbnails):

1. A content is named by its SHA-256 and stored once. `services.media.contents.Contents` puts it
   into the store: first the row of `media_blobs`, then the content. The row that refers to it comes
   last, from its caller.
2. A table that refers to contents has a column `sha256` and the trigger `media_count_references`
   (migration 0032), which keeps `reference_count` right whatever changes the rows. `media` has one
   for each mxc URI; thumbnails have a table of their own.
3. A content without references is deleted in the background, some time after it was written. A
   writer that dies between any two of the steps leaves such a content, or an unfinished file, which
   go the same way. No row refers to a content that isn't in the store.
"""
