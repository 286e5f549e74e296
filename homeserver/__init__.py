"""The homeserver: accounts, rooms as clients see them, and all storage.

Imports point down only: `rules` <- `storage`, `outbound`, `media` <- `engine` <- `services` <-
`api`, `web` <- `app`, `cli`. It implements the Protocols of `federation.ports` and never imports
`e2ee`: a server holds no keys that could decrypt a room.
"""
