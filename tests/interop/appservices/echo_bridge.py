"""A small bridge on mautrix-python's framework for application services: a process of its own.

Its ghost goes wherever it is invited, and repeats what is said there. Arguments: the homeserver's
URL, its name, and the port to listen on. Registration: `tests.homeserver.appservice_world`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib import import_module
from typing import Any

from tests.homeserver.appservice_world import AS_TOKEN, HS_TOKEN

appservice: Any = import_module("mautrix.appservice")
memory: Any = import_module("mautrix.appservice.state_store.memory")
clients: Any = import_module("mautrix.client.state_store.memory")
types: Any = import_module("mautrix.types")

log = logging.getLogger("bridge")


class StateStore(memory.ASStateStore, clients.MemoryStateStore):  # type: ignore[misc]
    """What the framework keeps of rooms and users."""

    def __init__(self) -> None:
        memory.ASStateStore.__init__(self)
        clients.MemoryStateStore.__init__(self)


async def main(url: str, name: str, port: int) -> None:
    """Runs until it is killed."""
    bridge = appservice.AppService(
        server=url,
        domain=name,
        as_token=AS_TOKEN,
        hs_token=HS_TOKEN,
        bot_localpart="_irc_bot",
        id="irc",
        state_store=StateStore(),
        ephemeral_events=True,
        encryption_events=True,
    )
    ghost_id = f"@_irc_ghost:{name}"

    async def handle(event: Any) -> None:
        ghost = bridge.intent.user(ghost_id)
        if event.type == types.EventType.ROOM_MEMBER and event.state_key == ghost_id:
            if event.content.membership == types.Membership.INVITE:
                await ghost.ensure_joined(event.room_id)
                await ghost.set_displayname("Ghost")
        elif event.type == types.EventType.ROOM_MESSAGE and event.sender != ghost_id:
            await ghost.send_text(event.room_id, f"echo: {event.content.body}")
            await ghost.mark_read(event.room_id, event.event_id)
        elif event.type == types.EventType.TYPING and event.content.user_ids:
            log.warning("typing in %s", event.room_id)

    bridge.matrix_event_handler(handle)
    await bridge.start("127.0.0.1", port)
    await bridge.intent.ensure_registered()
    took_ms = await bridge.ping_self("hello")
    log.warning("pinged in %d ms", took_ms)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
