"""Server access control lists."""

import re
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.events.canonical_json import JsonObject
from federation.events.ids import ServerName
from federation.transport import acl
from federation.transport.acl import ServerAcl, ip_of, matches_glob, split_port
from tests.federation.transport.loopback import loopback


@pytest.mark.parametrize(
    ("server", "allowed"),
    [
        ("good.test", True),
        ("good.test:1234", True),
        ("GOOD.TEST", True),
        ("evil.test", False),
        ("sub.EVIL.test:8448", False),
        ("1.2.3.4", False),
        ("[::1]:8448", False),
    ],
)
def test_deny_and_literals_win_over_allow(server: str, allowed: bool) -> None:
    acl = ServerAcl.parse({"allow": ["*"], "deny": ["*evil.test", 5], "allow_ip_literals": False})
    assert acl.allows(ServerName(server)) is allowed


def test_who_is_on_no_list_is_denied() -> None:
    assert not ServerAcl.parse({}).allows(ServerName("a.test"))
    assert not ServerAcl.parse({"allow": "a.test"}).allows(ServerName("a.test"))
    assert ServerAcl.parse({"allow": ["a.t?st"]}).allows(ServerName("a.test"))
    assert ServerAcl.parse({"allow": ["*"]}).allows(ServerName("1.2.3.4"))


@pytest.mark.parametrize(
    ("glob", "text", "matches"),
    [
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("a*c", "abbc", True),
        ("a*c", "abbd", False),
        ("*.b", "a.b", True),
        ("?", "", False),
        ("a**b", "ab", True),
        ("a.c", "abc", False),
        ("*a*b", "xaxab", True),
    ],
)
def test_globs(glob: str, text: str, matches: bool) -> None:
    assert matches_glob(glob, text) is matches


@given(st.text("ab?*", max_size=8), st.text("ab", max_size=8))
def test_globs_match_as_regular_expressions_do(glob: str, text: str) -> None:
    pattern = "".join({"*": ".*", "?": "."}.get(one, one) for one in glob)
    assert matches_glob(glob, text) is (re.fullmatch(pattern, text) is not None)


def test_a_hostile_glob_costs_no_exponential_time() -> None:
    started = time.process_time()
    assert not matches_glob("a*" * 120 + "b", "a" * 255)
    assert time.process_time() - started < 1


@pytest.mark.parametrize("glob", ["*aaaaab", "*?a?a?b", "a*a*a*b"])
def test_thousands_of_hostile_globs_cost_their_length(glob: str) -> None:
    """As many as fit an event; each step is one of a part's characters."""
    acl = ServerAcl.parse({"allow": ["*"], "deny": [glob] * (65_000 // (len(glob) + 3))})
    started = time.process_time()
    assert acl.allows(ServerName("a" * 230))
    assert time.process_time() - started < 0.5


def test_names_are_split_into_host_and_port() -> None:
    assert split_port("a.test:80") == ("a.test", 80)
    assert split_port("a.test") == ("a.test", None)
    assert split_port("[::1]") == ("[::1]", None)
    assert split_port("[::1]:80") == ("[::1]", 80)
    assert (ip_of("[::1]"), ip_of("127.0.0.1"), ip_of("a.test")) == ("::1", "127.0.0.1", None)


async def test_so_many_decisions_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the bound the oldest is made again; those kept aren't."""
    monkeypatch.setattr(acl, "ACL_DECISIONS_KEPT_MAX", 2)
    async with loopback() as net:
        peer = await net.peer("a.test")
        alice = peer.user("alice")
        room_id = peer.rooms.create_room(alice)
        content: JsonObject = {"allow": ["*"], "deny": ["evil.test"]}
        peer.rooms.send(room_id, alice, "m.room.server_acl", content, state_key="")
        acls = acl.ServerAcls(peer.rooms)
        with patch.object(peer.rooms, "load_events", wraps=peer.rooms.load_events) as load:
            for name, loads in (
                ("a.test", 1),
                ("evil.test", 2),
                ("a.test", 2),
                ("evil.test", 2),
                ("c.test", 3),
                ("evil.test", 3),
                ("a.test", 4),
            ):
                assert await acls.allows(room_id, ServerName(name)) is (name != "evil.test")
                assert load.call_count == loads
