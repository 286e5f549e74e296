"""Causes of work: set by the edge, kept by tasks, an IPv6 host counted once."""

import asyncio

import pytest

from federation.causes import (
    OWN_WORK,
    Cause,
    CauseKind,
    address_cause,
    caused_by,
    current_cause,
)


async def test_a_cause_goes_with_the_task_and_ends_with_the_block() -> None:
    cause = Cause(CauseKind.USER, "@alice:a.test")
    assert current_cause() == OWN_WORK

    async def look() -> Cause:
        await asyncio.sleep(0)
        return current_cause()

    with caused_by(cause):
        async with asyncio.TaskGroup() as group:
            inside = group.create_task(look())
        with caused_by(OWN_WORK):
            assert current_cause() == OWN_WORK
        assert current_cause() == cause
    assert current_cause() == OWN_WORK
    assert inside.result() == cause


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::9%eth0", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_an_ipv6_host_is_its_network(address: str, name: str) -> None:
    assert address_cause(address) == Cause(CauseKind.ADDRESS, name)
