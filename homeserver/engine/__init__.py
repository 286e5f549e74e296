"""The room engine: hot rooms in memory, one writer for each, one log, followers of the log.

`rooms` holds the committed rooms (and, only for the writer, staged events); `local.writer` appends
events of local users; `log.committer` writes everything that is queued as one transaction and
numbers it; `followers.fanout` wakes waiting syncs; `rooms.reader` pages through history.
"""
