"""The part of a homeserver that the machine's requests need, as a transport that a test watches."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from e2ee.http import Call, ClientResponse, MatrixApi
from e2ee.machine.machine import Machine
from tests.e2ee.device_parts import as_received

JsonObject = dict[str, Any]


async def _never_waits(seconds: float) -> None:
    """Repeats at once."""


class KeysHomeserver:
    """Answers key requests, to-device messages and sends, and notes each.

    `watch` sees each call before it is answered; it may wait, act, or raise.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], JsonObject]] = []
        self.device_keys: dict[str, dict[str, JsonObject]] = {}
        self.one_time_keys: dict[tuple[str, str], list[tuple[str, JsonObject]]] = {}
        self.watch: Callable[[list[str], JsonObject], Awaitable[None]] = self._look_on

    async def _look_on(self, path: list[str], body: JsonObject) -> None:
        """Lets the call pass."""

    def api(self) -> MatrixApi:
        """Returns calls to this homeserver that wait for nothing before a repetition."""
        return MatrixApi(self, "token", sleep=_never_waits)

    def publish(self, machine: Machine) -> None:
        """Takes the keys that another user's device uploads."""
        device = machine.device
        unsaved = machine.outgoing_requests(0)
        machine.pending_changes.save(lambda changes: None)
        upload, *_ = machine.pending_changes.release(unsaved)
        self._upload(device.user_id, device.device_id, as_received(upload.body))

    def made(self, *path: str) -> list[JsonObject]:
        """Returns the bodies of the calls whose path begins so, in order."""
        return [body for parts, body in self.calls if parts[: len(path)] == list(path)]

    async def request(self, call: Call) -> ClientResponse:
        """Answers a call."""
        path = [unquote(part) for part in call.path.removeprefix("/_matrix/client/v3/").split("/")]
        body = as_received(call.body or {})
        self.calls.append((path, body))
        await self.watch(path, body)
        return ClientResponse(200, self._answer(path, body))

    async def close(self) -> None:
        """Holds nothing."""

    def _answer(self, path: list[str], body: JsonObject) -> JsonObject:
        match path:
            case ["keys", "upload"]:
                return {"one_time_key_counts": {"signed_curve25519": 50}}
            case ["keys", "query"]:
                return {
                    "device_keys": {u: self.device_keys.get(u, {}) for u in body["device_keys"]}
                }
            case ["keys", "claim"]:
                return {"one_time_keys": self._claimed(body["one_time_keys"])}
            case ["rooms", _, "send", _, transaction_id]:
                return {"event_id": f"${transaction_id}"}
        assert path[0] == "sendToDevice", f"no call of this kind is expected: {path}"
        return {}

    def _upload(self, user_id: str, device_id: str, body: JsonObject) -> None:
        self.device_keys.setdefault(user_id, {})[device_id] = body["device_keys"]
        self.one_time_keys[user_id, device_id] = list(body["one_time_keys"].items())

    def _claimed(self, wanted: dict[str, dict[str, str]]) -> JsonObject:
        found: JsonObject = {}
        for user_id, devices in wanted.items():
            for device_id in devices:
                keys = self.one_time_keys.get((user_id, device_id))
                if keys:
                    name, key = keys.pop(0)
                    found.setdefault(user_id, {})[device_id] = {name: key}
        return found
