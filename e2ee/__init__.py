"""The client side: end-to-end encryption, where the user's own server counts as hostile.

`crypto` holds the primitives, `machine` decides (pure), `store` keeps, `http` speaks to the
homeserver, `client` joins them, `cli` is `freehold-chat`. Nothing on the server side imports this
package.
"""
