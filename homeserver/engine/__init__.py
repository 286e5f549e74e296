"""The room engine: hot rooms in memory, one writer for each, one log, followers of the log.

`rooms` holds what is committed (and, for the writer alone, what is staged); `writer` is the one
door into a room's history; `committer` writes everything that is queued as one transaction and
numbers it; `fanout` wakes those who wait; `reader` pages through history.
"""
