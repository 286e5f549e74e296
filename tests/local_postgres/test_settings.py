"""The settings of the embedded PostgreSQL: what is given at each start, and what is dangerous."""

from pathlib import Path

import pytest

from local_postgres.limits import SOCKET_PATH_BYTES_MAX
from local_postgres.settings import (
    DURABILITY,
    SETTINGS,
    arguments,
    dangers,
    fits_socket,
)


def given(major: int, extra: dict[str, str]) -> dict[str, str]:
    """Returns the settings in the postmaster's arguments."""
    found = arguments(major, Path("/s"), extra)
    assert set(found[::2]) == {"-c"}
    settings = [text.partition("=") for text in found[1::2]]
    assert len({name for name, _, _ in settings}) == len(settings), "a setting is given twice"
    return {name: value for name, _, value in settings}


def test_the_only_door_is_the_socket() -> None:
    """No TCP, and the socket is its owner's."""
    settings = given(18, {})
    assert settings["listen_addresses"] == ""
    assert settings["unix_socket_directories"] == "/s"
    assert settings["unix_socket_permissions"] == "0700"


def test_settings_of_ours_can_be_overridden() -> None:
    """Extra settings win, those that we don't have are added."""
    settings = given(17, {"jit": "on", "log_connections": "on"})
    assert settings["jit"] == "on"
    assert settings["log_connections"] == "on"
    assert settings.items() >= {**SETTINGS, "jit": "on"}.items()


@pytest.mark.parametrize(("major", "value"), [(14, None), (17, None), (18, "sync"), (19, "sync")])
def test_input_workers_are_set_where_there_are_some(major: int, value: str | None) -> None:
    """An older version refuses to start with a setting that it doesn't know."""
    assert given(major, {}).get("io_method") == value


@pytest.mark.parametrize("name", DURABILITY)
@pytest.mark.parametrize("value", ["off", "OFF", "false", "no", "0"])
def test_a_setting_that_can_lose_data_is_said(name: str, value: str) -> None:
    """By its name, in each spelling that PostgreSQL takes for off."""
    [warning] = dangers({name: value, "jit": "off"})
    assert f"{name} = off" in warning


def test_what_is_safe_warns_of_nothing() -> None:
    """Neither our settings nor these."""
    assert list(dangers({})) == []
    assert list(dangers(SETTINGS)) == []
    assert list(dangers({"fsync": "on", "synchronous_commit": "remote_apply"})) == []


def test_a_sockets_path_is_bounded_in_bytes() -> None:
    """With the lock file's name, which is the longest in the folder; letters may be two bytes."""
    rest = len("/.s.PGSQL.5432.lock")
    longest = "/" + "x" * (SOCKET_PATH_BYTES_MAX - rest - 1)
    assert fits_socket(Path(longest))
    assert not fits_socket(Path(longest + "x"))
    assert not fits_socket(Path("/" + "ü" * (SOCKET_PATH_BYTES_MAX // 2)))
