"""What a world is like: its rooms' versions, its hardships, its liar. All drawn from its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from federation.events.room_versions import RoomVersion, room_version

VERSIONS = [str(number) for number in range(1, 13)]
ATTACKS = (
    "unauthorised",
    "backdated",
    "forged sender",
    "forged signature",
    "wrong hash",
    "same ID",
    "second creation",
    "wrong depth",
    "bad ancestors",
    "forged authoriser",
    "reset fork",
    "withheld fork",
)
LIES = (
    "state_ids",
    "outdated state_ids",
    "get_missing_events",
    "backfill",
    "event",
    "event_auth",
    "send_join",
)


@dataclass(frozen=True)
class Plan:
    """What a world is like."""

    version: str
    upgrade_to: str | None
    join_rule: str
    servers: int
    operations: int
    loss: float
    duplication: float
    delay_s: float
    store_fails: float
    crashes: bool
    partitions: bool
    long_outage: bool
    skew_ms: int
    clock_jump_ms: int
    attacks: tuple[str, ...]
    lies: tuple[str, ...]
    flood: int

    @classmethod
    def draw(cls, rng: random.Random, *, operations: int) -> Plan:
        """A plan; each hardship comes in some worlds and not in others."""

        def sometimes(chance: float, value: float) -> float:
            return rng.random() * value if rng.random() < chance else 0.0

        version = rng.choice([*VERSIONS, "12", "12", "12", "11", "10"])
        has_liar = rng.random() < 0.5
        attacks = _some(rng, ATTACKS) if has_liar else ()
        if has_liar and rng.random() < 0.4:
            attacks = tuple(dict.fromkeys((*attacks, "withheld fork")))
        lies = _some(rng, LIES) if has_liar and rng.random() < 0.6 else ()
        if "withheld fork" in attacks:  # else nobody asks for a state
            lies = (*lies, rng.choice(["state_ids", "outdated state_ids"]))
        if has_liar and not room_version(version).event_ids_are_hashes:
            attacks = (*attacks, "same ID")
        return cls(
            version=version,
            upgrade_to=rng.choice([*VERSIONS, "12", "12"]) if rng.random() < 0.2 else None,
            join_rule=rng.choice(_join_rules(room_version(version))),
            servers=3 if rng.random() < 0.8 else rng.choice([2, 4]),
            operations=operations,
            loss=sometimes(0.5, 0.3),
            duplication=sometimes(0.4, 0.5),
            delay_s=rng.choice([0.02, 0.2, 3.0]),
            store_fails=sometimes(0.3, 0.15),
            crashes=rng.random() < 0.5,
            partitions=rng.random() < 0.7,
            long_outage=rng.random() < 0.1,
            skew_ms=int(sometimes(0.5, 120_000)),
            clock_jump_ms=rng.choice([0, 0, 60_000, 6 * 3_600_000]),
            attacks=attacks,
            lies=lies,
            flood=rng.choice([50, 200]) if has_liar and rng.random() < 0.1 else 0,
        )


def _some(rng: random.Random, kinds: tuple[str, ...]) -> tuple[str, ...]:
    """A few of them, so that each comes often enough to matter."""
    return tuple(rng.sample(kinds, rng.randint(2, len(kinds) // 2)))


def _join_rules(version: RoomVersion) -> list[str]:
    """The join rules that a version has; public ones come more often."""
    rules = ["public"] * 5 + ["invite"]
    rules += ["knock"] * version.knock
    rules += ["restricted"] * version.restricted_joins
    return rules + ["knock_restricted"] * version.knock_restricted
