"""Random graphs of spaces, here and on another server, and a naive model of what a user is shown.

The model knows the facts that the graph was made of, and none of the product's code: which edge
leads to a room that can be found, who may see it, and the order of children.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from federation.events.canonical_json import JsonObject
from federation.events.ids import RoomId, ServerName
from tests.homeserver.room_world import ALICE, BOB, HERE, World

THERE = ServerName("there.example")
NOWHERE = ServerName("nowhere.example")
NOT_MADE = RoomId("")
VERSIONS = ("6", "7", "8", "10", "11", "12")
KNOCK_SINCE, RESTRICTED_SINCE, BOTH_SINCE = 7, 8, 10


@dataclass
class Edge:
    """A child of a space."""

    child: Node
    content: JsonObject
    time_ms: int = 0

    @property
    def key(self) -> tuple[bool, str, int, str]:
        """The place among its siblings."""
        order = self.content.get("order")
        return (order is None, order or "", self.time_ms, self.child.room_id)

    @property
    def is_suggested(self) -> bool:
        """Whether the space suggests it."""
        return self.content.get("suggested") is True


@dataclass
class Node:
    """A room, and what decides who sees it."""

    version: str
    rule: str
    is_space: bool
    is_remote: bool
    world_readable: bool = False
    allowed: list[Node] = field(default_factory=list)
    membership: str | None = None  # Bob's
    room_id: RoomId = NOT_MADE
    edges: list[Edge] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        """Whether anybody may see it."""
        since = {"public": 1, "knock": KNOCK_SINCE, "knock_restricted": BOTH_SINCE}
        by_rule = self.rule in since and int(self.version) >= since[self.rule]
        return by_rule or self.world_readable

    @property
    def is_visible(self) -> bool:
        """Whether Bob may see it."""
        if self.membership in ("join", "invite"):
            return True
        if self.membership == "ban":
            return self.world_readable
        since = {"restricted": RESTRICTED_SINCE, "knock_restricted": BOTH_SINCE}
        by_room = self.rule in since and int(self.version) >= since[self.rule]
        return self.is_open or (by_room and any(one.membership == "join" for one in self.allowed))

    @property
    def is_shown_to_us(self) -> bool:
        """Whether the other server shows it to this one, which has no user in it."""
        return self.is_open or (self.rule == "restricted" and bool(self.allowed))

    def children(self, *, suggested_only: bool) -> list[Edge]:
        """The children in order."""
        edges = [edge for edge in self.edges if edge.is_suggested or not suggested_only]
        return sorted(edges, key=lambda edge: edge.key)

    def is_found_by(self, parent: Node, edge: Edge) -> bool:
        """Whether a walk that comes along an edge learns of this room."""
        if not self.is_remote:
            return True
        if not self.is_shown_to_us:
            return False
        told = parent.is_remote and not self.is_space
        return told or THERE in edge.content["via"]


def random_nodes(random: Random, count: int) -> list[Node]:
    """Rooms without children; the first is a space that Bob is in."""
    nodes: list[Node] = []
    for number in range(count):
        is_remote = number > 0 and random.random() < 0.3
        rules = ["public", "invite", "restricted"] if is_remote else list(_RULES)
        node = Node(
            version=random.choice(VERSIONS if not is_remote else VERSIONS[3:]),
            rule=random.choice(rules),
            is_space=number == 0 or random.random() < 0.5,
            is_remote=is_remote,
            world_readable=random.random() < 0.1,
        )
        here = [one for one in nodes if not one.is_remote]
        if node.rule.endswith("restricted") and here:
            node.allowed = [random.choice(here)]
        if number == 0:
            node.membership = "join"
        elif not is_remote:
            node.membership = random.choice([None, None, None, "join", "invite", "leave", "ban"])
        nodes.append(node)
    return nodes


_RULES = ("public", "invite", "knock", "restricted", "knock_restricted")


def add_edges(random: Random, nodes: Sequence[Node]) -> None:
    """Children, circles and all."""
    for parent in nodes:
        if not parent.is_space:
            continue
        for child in random.sample(list(nodes), random.randint(1, 5)):
            right = THERE if child.is_remote else HERE
            content: JsonObject = {"via": random.choice([[right], [right], [NOWHERE]])}
            if random.random() < 0.5:
                content["order"] = random.choice(["a", "b", "~", " "])
            if random.random() < 0.7:
                content["suggested"] = True
            parent.edges.append(Edge(child, content, time_ms=random.randint(1, 3)))


async def build(world: World, nodes: Sequence[Node]) -> None:
    """The rooms on our server, and what the other one says of its own."""
    for number, node in enumerate(nodes):
        if node.is_remote:
            node.room_id = RoomId(f"!remote{number}:{THERE}")
        else:
            node.room_id = await _room(world, node)
    for node in nodes:
        if node.is_remote and node.is_shown_to_us:
            world.remote.spaces[THERE, node.room_id] = _answer(node)
        elif not node.is_remote:
            for edge in node.edges:
                await _put(world, node, "m.space.child", edge.content, edge.child.room_id)
                event = await world.in_room(
                    ALICE, "GET", node.room_id, _path(edge.child.room_id), query="format=event"
                )
                edge.time_ms = event.body["origin_server_ts"]


def _path(child: RoomId) -> str:
    return f"state/m.space.child/{child}"


async def _put(world: World, node: Node, kind: str, content: JsonObject, key: str = "") -> None:
    reply = await world.put_state(ALICE, node.room_id, kind, content, key)
    assert reply.status == 200, reply


async def _room(world: World, node: Node) -> RoomId:
    creation: JsonObject = {"type": "m.space"} if node.is_space else {}
    room_id = await world.room(
        preset="public_chat", room_version=node.version, creation_content=creation
    )
    node.room_id = room_id
    if node.membership in ("join", "leave", "ban"):
        assert (await world.join(BOB, room_id)).status == 200
    if node.membership == "leave":
        assert (await world.in_room(BOB, "POST", room_id, "leave", {})).status == 200
    if node.membership in ("ban", "invite"):
        reply = await world.in_room(ALICE, "POST", room_id, str(node.membership), {"user_id": BOB})
        assert reply.status == 200, reply
    rules: JsonObject = {"join_rule": node.rule}
    if node.allowed:
        rules["allow"] = [
            {"type": "m.room_membership", "room_id": one.room_id} for one in node.allowed
        ]
    await _put(world, node, "m.room.join_rules", rules)
    visibility = "world_readable" if node.world_readable else "shared"
    await _put(world, node, "m.room.history_visibility", {"history_visibility": visibility})
    return room_id


def _summary(node: Node) -> JsonObject:
    summary: JsonObject = {
        "room_id": node.room_id,
        "num_joined_members": 1,
        "world_readable": node.world_readable,
        "guest_can_join": False,
        "join_rule": node.rule,
        "room_version": node.version,
        "children_state": [
            {
                "type": "m.space.child",
                "state_key": edge.child.room_id,
                "content": edge.content,
                "sender": f"@there:{THERE}",
                "origin_server_ts": edge.time_ms,
            }
            for edge in node.edges
        ],
    }
    if node.is_space:
        summary["room_type"] = "m.space"
    if node.allowed:
        summary["allowed_room_ids"] = [one.room_id for one in node.allowed]
    return summary


def _answer(node: Node) -> JsonObject:
    children = [edge.child for edge in node.edges if edge.child.is_remote]
    return {
        "room": _summary(node),
        "children": [
            {**_summary(child), "children_state": []} for child in children if child.is_shown_to_us
        ],
        "inaccessible_children": [child.room_id for child in children if not child.is_shown_to_us],
    }


def shown(root: Node, *, suggested_only: bool, max_depth: int) -> list[RoomId]:
    """The rooms that Bob is shown, in order: naively, by recursion."""
    listed: dict[RoomId, int] = {}

    def visit(node: Node, depth: int) -> Iterator[RoomId]:
        if not node.is_visible or listed.get(node.room_id, max_depth + 1) <= depth:
            return
        if node.room_id not in listed:
            yield node.room_id
        listed[node.room_id] = depth
        if depth < max_depth:
            for edge in node.children(suggested_only=suggested_only):
                if edge.child.is_found_by(node, edge):
                    yield from visit(edge.child, depth + 1)

    return list(visit(root, 0))


def within_reach(root: Node, *, suggested_only: bool, max_depth: int) -> set[RoomId]:
    """The rooms that Bob can come to, level by level: the same set, found in another way."""
    level, reached = [root], {root.room_id}
    for _ in range(max_depth):
        following: list[Node] = []
        for node in level:
            for edge in node.children(suggested_only=suggested_only):
                child = edge.child
                if child.room_id in reached or not child.is_visible:
                    continue
                if child.is_found_by(node, edge):
                    reached.add(child.room_id)
                    following.append(child)
        level = following
    return reached


def as_dict(rooms: Sequence[JsonObject]) -> dict[str, Any]:
    """The rooms of an answer by ID."""
    return {room["room_id"]: room for room in rooms}
