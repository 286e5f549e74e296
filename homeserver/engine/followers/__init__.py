"""Followers of the log: cursors over committed entries, read from memory near the log's end, with
at-least-once delivery."""
