"""Federation with I/O: the requests that come in and those that go out.

A transaction comes in: `routes` (size, signature, destination, origin) -> `inbox` (seen before?
fast path or durable queue) -> `admission` driven by `gap_filler` -> the writer. What we owe goes
out by `outbox`; joins, invites and the like by `joining`; all through one `client`.
"""
