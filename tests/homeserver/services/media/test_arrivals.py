"""Those who wait for a content are woken, and forgotten when they are gone."""

from __future__ import annotations

import gc

from homeserver.rules.media.mxc import Mxc
from homeserver.services.media.arrivals import ContentArrivals
from tests.homeserver.media_world import HERE

ONE, TWO = Mxc(HERE, "one"), Mxc(HERE, "two")


def test_all_who_wait_for_a_uri_are_woken() -> None:
    arrivals = ContentArrivals()
    first, second, other = arrivals.event(ONE), arrivals.event(ONE), arrivals.event(TWO)
    arrivals.announce(ONE)
    assert first is second
    assert (first.is_set(), other.is_set()) == (True, False)
    assert not arrivals.event(ONE).is_set()


def test_nobody_waits_and_nothing_is_kept() -> None:
    arrivals = ContentArrivals()
    arrivals.announce(ONE)
    arrivals.event(ONE)
    gc.collect()
    assert not arrivals._events
