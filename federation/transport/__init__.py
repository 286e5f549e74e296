"""Federation with I/O: the requests that come in and those that go out.

The way of a received transaction: `routes` (size, signature, destination, origin) -> `inbox`
(repeats, then the fast path or the durable queue) -> `admission` driven by `gap_filler` -> the
writer. `outbox` sends pending events, `joining` sends joins, invites and the like, both through one
`client`.
"""
