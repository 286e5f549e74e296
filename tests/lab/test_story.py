"""The story tells the truth: it plays through with sound servers and fails with bad ones."""

from pathlib import Path
from typing import Any

import pytest

import lab.story
from lab.canary import new_kind
from lab.people import People
from lab.story import Record, Story, StoryFailed
from lab.topology import Ports, ServerPlan, Topology
from tests.e2ee.fake_homeserver import FakeHomeserver

JsonObject = dict[str, Any]


@pytest.fixture
def server() -> FakeHomeserver:
    """Returns a homeserver in memory, which is all three of the story's."""
    return FakeHomeserver()


def people_of(server: FakeHomeserver, home: Path) -> People:
    """Returns people who reach that homeserver."""
    plan = ServerPlan(server.name, Ports(1, 2), home)
    return People(Topology(home, (plan,)), None, connect=lambda _: server.transport())


async def play(server: FakeHomeserver, home: Path) -> Record:
    """Play the story."""
    people = people_of(server, home)
    tale = Story(
        people,
        [server.name] * 3,
        secret=new_kind("encrypted"),
        control=new_kind("control"),
        progress=lambda text: None,
    )
    try:
        return await tale.play()
    finally:
        await people.all_leave()


async def test_the_story_plays_through(server: FakeHomeserver, tmp_path: Path) -> None:
    """Everyone reads what is for them, with times; the record has all of it."""
    record = await play(server, tmp_path)
    readers = [sorted(said.read_after_s) for said in record.said]
    assert readers == [
        ["alice", "bob", "carol"],
        ["alice", "bob", "carol"],
        ["alice", "bob", "carol"],
        ["alice", "bob", "carol"],
        ["alice", "bob", "carol"],
        ["alice", "bob", "carol", "mallory"],
        ["alice", "carol", "mallory"],
    ]
    assert [said.not_readable_by for said in record.said] == [["mallory"]] * 5 + [[], ["bob"]]
    assert record.said[1].edited_from
    assert record.said[-1].session_id not in {said.session_id for said in record.said[:-1]}
    assert record.control_body


async def test_it_can_be_played_again_with_kept_accounts(
    server: FakeHomeserver, tmp_path: Path
) -> None:
    """The second time people log in; no store of the first time stays."""
    first = await play(server, tmp_path)
    second = await play(server, tmp_path)
    assert second.room_id != first.room_id
    assert [path.name for path in (tmp_path / "people").iterdir()] == ["people.json"]


async def test_a_server_that_keeps_keys_back_is_found_out(
    server: FakeHomeserver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Carol, who gets no room keys, is named, with what she sees."""
    monkeypatch.setattr(lab.story, "STEP_TIMEOUT_S", 0.5)

    def keep_back(user: str, path: str, answer: JsonObject) -> JsonObject | None:
        if path.startswith("sync") and user.startswith("@carol"):
            answer.pop("to_device", None)
        return answer

    server.on_answer = keep_back
    with pytest.raises(StoryFailed, match=r"carol does not read[\s\S]*the key hasn't arrived"):
        await play(server, tmp_path)


async def test_a_server_that_shows_another_room_version_is_found_out(
    server: FakeHomeserver, tmp_path: Path
) -> None:
    """The room must be of the version asked for, as everybody sees it."""

    def lie(user: str, path: str, answer: JsonObject) -> JsonObject | None:
        changed: JsonObject = change_version(answer)
        return changed

    server.on_answer = lie
    with pytest.raises(StoryFailed, match="room version '3'"):
        await play(server, tmp_path)


def change_version(answer: Any) -> Any:
    """Returns an answer in which every room is of version 3."""
    if isinstance(answer, dict):
        if answer.get("type") == "m.room.create":
            return {**answer, "content": {**answer["content"], "room_version": "3"}}
        return {key: change_version(value) for key, value in answer.items()}
    return [change_version(item) for item in answer] if isinstance(answer, list) else answer


async def test_an_account_that_does_not_fit_says_what_to_do(
    server: FakeHomeserver, tmp_path: Path
) -> None:
    """A lab's folder of another database: delete it."""
    people = people_of(server, tmp_path)
    await people.enter("alice", server.name)
    await people.all_leave()
    server.passwords.clear()
    with pytest.raises(RuntimeError, match="delete the folder"):
        await people_of(server, tmp_path).enter("alice", server.name)
