"""How often each hardship struck, and each verdict was given: a hardship that never matters is a
toy. Counted over worlds (`run --coverage`); `WANTED` are those that must come about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from homeserver.storage.timeline.events import StoredVerdict
from tests.homeserver.counted import counted
from tests.simulation.contents import is_whole
from tests.simulation.disks import RoomDisks, Stored
from tests.simulation.oracle import GraphOracle
from tests.simulation.plan import ATTACKS, LIES, VERSIONS
from tests.simulation.world import World

_VERDICTS = {
    StoredVerdict.ACCEPTED: "accepted",
    StoredVerdict.SOFT_FAILED: "soft-failed",
    StoredVerdict.REJECTED: "rejected",
}

WANTED = (
    *(f"rooms of version {name}" for name in VERSIONS),
    *(f"attack: {name}" for name in ATTACKS if name != "withheld fork"),
    *(f"lie: {name}" for name in LIES),
    "attack: flood",
    "attack: withheld fork",
    "packets lost",
    "packets lost to a cut link",
    "requests that came twice",
    "failures of the store",
    "crashes",
    "crashes that forget what was staged",
    "clock jumps",
    "long outages",
    "graphs handed in in another order",
    "events older than their parents by their own time",
    "sends repeated under their transaction ID",
    "upgrades",
    "redactions that were applied",
    "joins through another server",
    "joins of a server that had been in the room before",
    "joins that a user vouched for",
    "knocks",
    "invites of others",
    "leaves of others",
    "bans of others",
    "events that came by backfill",
    "verdict: accepted",
    "verdict: soft-failed",
    "verdict: rejected",
    "verdict: dropped",
    "events that waited",
    "events judged on another's word",
    "outliers",
    "rooms with more than 20 heads",
    "merges",
    "merges that are none of their branches",
    "merges with a conflicted subgraph beyond the auth difference",
    "forged sender: kept out",
    "forged signature: kept out",
    "wrong hash: redacted",
    "unauthorised: rejected",
    "backdated: soft-failed",
    "second creation: kept out",
    "reset fork: accepted",
    "rejected by auth_event_rejected",
    "rejected by level_too_low",
)


def count(world: World, rooms: Iterable[RoomDisks]) -> Counter[str]:
    """What came about in a world that is over."""
    met = Counter(world.met)
    met["packets lost"] += world.network.lost
    met["packets lost to a cut link"] += world.network.lost_to_cuts
    met["requests that came twice"] += world.network.duplicated
    met["upgrades"] += len(world.rooms) > 1
    for server in world.servers:
        met["failures of the store"] += server.store_failures
        for name, labels, what in _RECEIVED:
            met[what] += int(counted(server.metrics, name, **labels))
    for disks in rooms:
        met[f"rooms of version {disks.room.version.name}"] += 1
        met["rooms with more than 20 heads"] += world.most_heads.get(disks.room.room_id, 0) > 20
        _count_graph(disks.oracle, met)
        for name, stored in disks.of.items():
            for one in stored.values():
                _count_stored(name, one, met)
                _count_attack(world, name, one, met)
    honest = [one.disk.tables.events for one in world.servers[:-1]]
    for event_id, kind in world.attacks.items():
        met[f"{kind}: kept out"] += not any(event_id in events for events in honest)
    return met


_RECEIVED: tuple[tuple[str, dict[str, str], str], ...] = (
    ("federation_pdus", {"result": "dropped"}, "verdict: dropped"),
    ("federation_pdus_waited", {"result": "dropped"}, "verdict: dropped"),
    ("federation_pdus", {"result": "kept"}, "events that waited"),
    ("federation_pdus", {"result": "known"}, "events that came again"),
    ("federation_pdus_waited", {"result": "undecided"}, "events that were given up"),
    ("federation_states_on_anothers_word", {}, "events judged on another's word"),
)


def _count_stored(server: str, one: Stored, met: Counter[str]) -> None:
    row, event = one.row, one.event
    if not one.is_placed:
        met["outliers"] += 1
        return
    met[f"verdict: {_VERDICTS[row['verdict']]}"] += 1
    if row["verdict"] == StoredVerdict.REJECTED:
        met[f"rejected by {str(row['reason']).partition(':')[0]}"] += 1
    met["unverified at the end"] += bool(row["unverified"])
    met["events that came by backfill"] += (row["gap_index"] or 0) < 0
    met["redactions that were applied"] += row["redacted_by"] is not None
    if row["verdict"] == StoredVerdict.ACCEPTED and event.type == "m.room.member":
        is_own = event.sender == event.state_key
        met[f"{event.membership}s" if is_own else f"{event.membership}s of others"] += 1
        met["joins that a user vouched for"] += "join_authorised_via_users_server" in event.content


def _count_attack(world: World, server: str, one: Stored, met: Counter[str]) -> None:
    kind = world.attacks.get(one.event.event_id)
    if kind is not None and one.is_placed and server != world.servers[-1].name:
        met[f"{kind}: {_VERDICTS[one.row['verdict']]}"] += 1
        met[f"{kind}: redacted"] += not is_whole(one.event)


def _count_graph(oracle: GraphOracle, met: Counter[str]) -> None:
    for event in oracle.order:
        parents = [oracle.events[one] for one in event.prev_events if one in oracle.events]
        older = any(event.origin_server_ts < one.origin_server_ts for one in parents)
        met["events older than their parents by their own time"] += older
        after = [oracle.after(one) for one in event.prev_events]
        states = [one for one in after if one is not None]
        different = [one for i, one in enumerate(states) if one not in states[:i]]
        if len(different) < 2 or event.event_id not in oracle.before:
            continue
        met["merges"] += 1
        met["merges that are none of their branches"] += (
            oracle.before[event.event_id] not in different
        )
        met["merges with a conflicted subgraph beyond the auth difference"] += bool(
            oracle.subgraph_beyond(different)
        )


def missing(met: Mapping[str, int]) -> list[str]:
    """The wanted ones that never came about."""
    return [name for name in WANTED if not met.get(name)]
