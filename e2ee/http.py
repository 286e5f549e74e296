"""Typed client-server calls over HTTP.

Rules:
1. Every call has a time limit; every answer a size limit.
2. 429 is waited for as long as the server says, within bounds, whatever the call.
3. A call that may be repeated without harm is repeated after a lost connection or a 5xx, with
   growing pauses; sends and to-device messages keep their transaction ID, so they arrive once.
4. The access token travels in a header only and appears in no error or `repr`.

Spec: client-server API, "API Standards", "Rate limiting", "Well-known URIs".
"""

import asyncio
import ssl as ssl_module
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlencode, urlsplit

import orjson

from e2ee.limits import (
    DISCOVERY_S_MAX,
    HTTP_ATTEMPTS_MAX,
    HTTP_PAUSE_S,
    HTTP_READ_BYTES,
    HTTP_REQUEST_S_MAX,
    RATE_LIMIT_WAIT_S_MAX,
    RATE_LIMIT_WAIT_S_MIN,
    RESPONSE_BYTES_MAX,
)

if TYPE_CHECKING:
    import aiohttp

JsonObject = dict[str, Any]
_CLIENT: Final = "/_matrix/client/v3"


class Unreachable(Exception):
    """The homeserver doesn't answer, or answers with nonsense or a 5xx."""


class MatrixRefused(Exception):
    """The homeserver refused a call; `errcode` and `status` as in the specification."""

    def __init__(self, status: int, errcode: str, message: str, body: JsonObject) -> None:
        super().__init__(f"{errcode}: {message}" if message else f"{errcode} ({status})")
        self.status = status
        self.errcode = errcode
        self.body = body


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request; `path` is encoded."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: JsonObject | None = None
    token: str = field(default="", repr=False)
    timeout_s: float = HTTP_REQUEST_S_MAX


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """Status, the `Retry-After` header (or empty) and the parsed body."""

    status: int
    body: JsonObject
    retry_after: str = ""


class Transport(Protocol):
    """Carries calls to one homeserver."""

    async def request(self, call: Call) -> ClientResponse:
        """Makes the call; raises `Unreachable`."""
        ...

    async def close(self) -> None:
        """Gives back connections."""
        ...


class AiohttpTransport:
    """The real transport. `ssl_context`: for a private certificate authority."""

    def __init__(self, base_url: str, ssl_context: ssl_module.SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("https", "http") or not parts.netloc:
            raise ValueError(f"not a homeserver address: {base_url}")
        self.base_url = base_url.rstrip("/")
        self._ssl = ssl_context
        self._session: aiohttp.ClientSession | None = None

    async def request(self, call: Call) -> ClientResponse:
        """Makes the call; raises `Unreachable`."""
        import aiohttp
        import yarl

        if self._session is None:
            self._session = aiohttp.ClientSession()
        query = f"?{urlencode(call.query)}" if call.query else ""
        url = yarl.URL(self.base_url + call.path + query, encoded=True)
        headers = {"Authorization": f"Bearer {call.token}"} if call.token else {}
        body = None if call.body is None else orjson.dumps(call.body)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            async with self._session.request(
                call.method,
                url,
                data=body,
                headers=headers,
                ssl=self._ssl if self._ssl is not None else True,
                timeout=aiohttp.ClientTimeout(total=call.timeout_s),
                allow_redirects=call.method == "GET" and not call.token,
            ) as answer:
                text = await _read_bounded(answer)
                retry_after = answer.headers.get("Retry-After", "")
                return ClientResponse(answer.status, _parse(text, answer.status), retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{self.base_url}: {type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Gives back connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _read_bounded(answer: "aiohttp.ClientResponse") -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(HTTP_READ_BYTES):
        size += len(part)
        if size > RESPONSE_BYTES_MAX:
            raise Unreachable("the answer is too large")
        parts.append(part)
    return b"".join(parts)


def _parse(text: bytes, status: int) -> JsonObject:
    try:
        value = orjson.loads(text or b"{}")
    except ValueError as error:
        if status >= 400:
            return {}
        raise Unreachable("the answer isn't JSON") from error
    return value if isinstance(value, dict) else {}


class MatrixApi:
    """The calls that the client needs. `token` is set by `register` and `login`."""

    def __init__(
        self,
        transport: Transport,
        token: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._transport = transport
        self._token = token
        self._sleep = sleep

    @property
    def token(self) -> str:
        """The access token; empty before log-in."""
        return self._token

    async def close(self) -> None:
        """Closes the transport."""
        await self._transport.close()

    async def register(self, localpart: str, password: str, device_name: str) -> JsonObject:
        """Makes an account by `m.login.dummy`; returns `user_id`, `device_id`, `access_token`."""
        body: JsonObject = {"username": localpart, "password": password}
        if device_name:
            body["initial_device_display_name"] = device_name
        try:
            answer = await self._post(
                "/register", {**body, "auth": {"type": "m.login.dummy"}}, token=""
            )
        except MatrixRefused as refused:
            session = refused.body.get("session")
            if refused.status != 401 or not isinstance(session, str):
                raise
            auth = {"type": "m.login.dummy", "session": session}
            answer = await self._post("/register", {**body, "auth": auth}, token="")
        return self._logged_in(answer)

    async def login(self, user: str, password: str, device_name: str) -> JsonObject:
        """Logs in by password as a new device; returns `user_id`, `device_id`, `access_token`."""
        body: JsonObject = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password,
        }
        if device_name:
            body["initial_device_display_name"] = device_name
        return self._logged_in(await self._post("/login", body, token=""))

    def _logged_in(self, answer: JsonObject) -> JsonObject:
        for name in ("user_id", "device_id", "access_token"):
            if not isinstance(answer.get(name), str):
                raise Unreachable(f"the homeserver's answer lacks {name}")
        self._token = answer["access_token"]
        return answer

    async def logout(self) -> None:
        """Ends the device's session."""
        await self._post("/logout", {})

    async def whoami(self) -> JsonObject:
        """Returns `user_id` and `device_id` of the token."""
        return await self._call(Call("GET", f"{_CLIENT}/account/whoami"))

    async def sync(self, since: str, timeout_ms: int, limit: int) -> JsonObject:
        """Sends a `/sync`; `since` may be empty, `limit` is the number of timeline events a
        room."""
        # "limit" of 100 or so: less would make gaps, more slows the first answer
        room_filter = {"room": {"timeline": {"limit": limit}}, "presence": {"types": []}}
        query = {"timeout": str(timeout_ms), "filter": orjson.dumps(room_filter).decode()}
        if since:
            query["since"] = since
        timeout_s = timeout_ms / 1000 + HTTP_REQUEST_S_MAX
        return await self._call(Call("GET", f"{_CLIENT}/sync", query, timeout_s=timeout_s))

    async def messages(self, room_id: str, start: str, limit: int) -> JsonObject:
        """Fetches a page of the room's past, newest first, from a token on."""
        query = {"dir": "b", "from": start, "limit": str(limit)}
        return await self._call(Call("GET", f"{_room(room_id)}/messages", query))

    async def send(
        self, room_id: str, event_type: str, transaction_id: str, content: JsonObject
    ) -> str:
        """Sends an event; returns its ID."""
        path = f"{_room(room_id)}/send/{_part(event_type)}/{_part(transaction_id)}"
        answer = await self._call(Call("PUT", path, body=content))
        return _text(answer, "event_id")

    async def create_room(self, body: JsonObject) -> str:
        """Makes a room; returns its ID."""
        return _text(await self._post("/createRoom", body), "room_id")

    async def join(self, room: str, via: tuple[str, ...]) -> str:
        """Joins by room ID or alias; returns the room ID."""
        query = urlencode([("via", v) for v in via] + [("server_name", v) for v in via])
        path = f"/join/{_part(room)}" + (f"?{query}" if query else "")
        return _text(await self._post(path, {}, may_repeat=True), "room_id")

    async def leave(self, room_id: str) -> None:
        """Leaves a room or refuses an invite."""
        await self._post(f"/rooms/{_part(room_id)}/leave", {}, may_repeat=True)

    async def invite(self, room_id: str, user_id: str) -> None:
        """Invites a user."""
        await self._post(f"/rooms/{_part(room_id)}/invite", {"user_id": user_id})

    async def keys(self, operation: str, body: JsonObject) -> JsonObject:
        """Sends `/keys/upload`, `/keys/query` or `/keys/claim`; each may be repeated safely."""
        return await self._post(f"/keys/{_part(operation)}", body, may_repeat=True)

    async def send_to_device(
        self, event_type: str, transaction_id: str, body: JsonObject
    ) -> JsonObject:
        """Sends `/sendToDevice`."""
        path = f"{_CLIENT}/sendToDevice/{_part(event_type)}/{_part(transaction_id)}"
        return await self._call(Call("PUT", path, body=body))

    async def _post(
        self, path: str, body: JsonObject, *, token: str | None = None, may_repeat: bool = False
    ) -> JsonObject:
        call = Call("POST", _CLIENT + path, body=body)
        return await self._call(call, token=token, may_repeat=may_repeat)

    async def _call(
        self, call: Call, *, token: str | None = None, may_repeat: bool = True
    ) -> JsonObject:
        carried = self._token if token is None else token
        call = Call(call.method, call.path, call.query, call.body, carried, call.timeout_s)
        failures, waited_s = 0, 0.0
        while True:
            try:
                response = await self._transport.request(call)
            except Unreachable:
                response = None
            if response is not None and response.status == 429:
                pause_s = _retry_after_s(response)
                waited_s += pause_s
                if waited_s > RATE_LIMIT_WAIT_S_MAX:
                    raise _refusal(response)
            elif response is not None and response.status < 500:
                if response.status >= 400:
                    raise _refusal(response)
                return response.body
            else:
                failures += 1
                pause_s = HTTP_PAUSE_S * 2**failures
                if failures >= HTTP_ATTEMPTS_MAX or not may_repeat:
                    status = "no answer" if response is None else f"status {response.status}"
                    raise Unreachable(f"{call.method} {call.path}: {status}")
            await self._sleep(pause_s)


def _refusal(response: ClientResponse) -> MatrixRefused:
    errcode, message = response.body.get("errcode"), response.body.get("error")
    return MatrixRefused(
        response.status,
        errcode if isinstance(errcode, str) else "M_UNKNOWN",
        message if isinstance(message, str) else "",
        response.body,
    )


def _retry_after_s(response: ClientResponse) -> float:
    """Returns seconds the server asks us to wait: the header, else the older `retry_after_ms`, else
    1."""
    if response.retry_after.isdigit():
        return min(float(response.retry_after), RATE_LIMIT_WAIT_S_MAX) or RATE_LIMIT_WAIT_S_MIN
    wait_ms = response.body.get("retry_after_ms")
    if isinstance(wait_ms, int) and wait_ms >= 0:
        return min(wait_ms / 1000, RATE_LIMIT_WAIT_S_MAX) or RATE_LIMIT_WAIT_S_MIN
    return 1.0


def _part(text: str) -> str:
    return quote(text, safe="")


def _room(room_id: str) -> str:
    return f"{_CLIENT}/rooms/{_part(room_id)}"


def _text(answer: JsonObject, name: str) -> str:
    value = answer.get(name)
    if not isinstance(value, str):
        raise Unreachable(f"the homeserver's answer lacks {name}")
    return value


async def discover(server_name: str, ssl_context: ssl_module.SSLContext | None = None) -> str:
    """Returns the homeserver's base URL by `.well-known/matrix/client`, or `https://{server_name}`.

    Raises `Unreachable` if the file is there but useless ("FAIL_PROMPT" in the specification).
    """
    transport = AiohttpTransport(f"https://{server_name}", ssl_context)
    try:
        answer = await transport.request(
            Call("GET", "/.well-known/matrix/client", timeout_s=DISCOVERY_S_MAX)
        )
    finally:
        await transport.close()
    if answer.status == 404:
        return f"https://{server_name}"
    found = answer.body.get("m.homeserver")
    base_url = found.get("base_url") if isinstance(found, dict) else None
    if answer.status != 200 or not isinstance(base_url, str):
        raise Unreachable(f"{server_name}'s .well-known/matrix/client can't be used")
    if urlsplit(base_url).scheme != "https":
        raise Unreachable(f"{server_name} names an address without TLS")
    return base_url.rstrip("/")
