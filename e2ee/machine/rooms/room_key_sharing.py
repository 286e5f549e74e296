"""Outbound Megolm sessions: rotation, recipients, and encryption.

Rules:
1. A session ends after the room's rotation settings (at most 100 messages, a week); when a user or
   device that may have it isn't a recipient any more; when the room's history visibility changes
   what later members may have; and when the room's membership is uncertain (`end`).
2. A later recipient gets the session **at its present index** and reads nothing older.
3. Nothing is encrypted before every recipient's device has the key on its way, acknowledged by the
   server, or was told why not. A device that can't be reached (no one-time key) doesn't hold the
   room up.
4. The session, and each Olm ratchet that carries it, is saved before a request that derives from
   it.

Spec: client-server API, "m.megolm.v1.aes-sha2", "Reporting that decryption keys are
withheld".
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from e2ee.crypto.primitives import Pickle, PickleKey
from e2ee.crypto.ratchets import InboundGroupSession, OutboundGroupSession
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.claims import Claims
from e2ee.machine.devices.device_keys import MEGOLM, Device
from e2ee.machine.devices.device_lists import TrackedDevices
from e2ee.machine.devices.trust import Share, WithheldCode, Withhold, key_sharing
from e2ee.machine.olm.olm_channels import OlmChannels
from e2ee.machine.outbox import RequestQueue
from e2ee.machine.rooms.room_keys import RoomKeys
from e2ee.machine.rooms.room_settings import RoomSettings
from federation.events import canonical_json

_KIND = "outbound"


class OutboundSession(msgspec.Struct, frozen=True):
    """A session we encrypt with. `shared`: user -> device -> Curve25519 key of a device that may
    have it."""

    session_id: str
    pickle: str
    created_ms: int
    messages: int
    shares_history: bool
    shared: dict[str, dict[str, str]] = {}
    withheld: dict[str, dict[str, str]] = {}


class Sharing(Enum):
    """Whether a room's next message may be encrypted."""

    READY = "ready"
    """Every recipient's device has the key, or was told why not."""
    WAITING = "waiting"
    """Requests are outstanding: make them, then ask again."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The remaining work for recipients' devices that don't have the session yet."""

    share: tuple[Device, ...]
    withhold: tuple[tuple[Device, WithheldCode], ...]
    claim: tuple[Device, ...]


class RoomKeySharing:
    """The outbound sessions of all rooms."""

    def __init__(
        self,
        pending_changes: PendingChanges,
        pickle_key: PickleKey,
        *,
        own: Device,
        lists: TrackedDevices,
        channels: OlmChannels,
        claims: Claims,
        outbox: RequestQueue,
        room_keys: RoomKeys,
    ) -> None:
        self._pending_changes = pending_changes
        self._pickle_key = pickle_key
        self._own = own
        self._lists = lists
        self._channels = channels
        self._claims = claims
        self._outbox = outbox
        self._room_keys = room_keys
        self._checked: dict[str, tuple[str, int, frozenset[str]]] = {}

    def end(self, room_id: str) -> None:
        """Ends the session: the next message needs a new one (a user left, or may have left)."""
        if self._load(room_id) is not None:
            self._pending_changes.remove(_KIND, room_id)

    def share(
        self, room_id: str, recipients: frozenset[str], settings: RoomSettings, now_ms: int
    ) -> Sharing:
        """Brings the room's session to all recipients; WAITING while requests must be made for
        it."""
        session = self._current(room_id, settings, now_ms)
        if session is not None and self._is_checked(room_id, session, recipients):
            return self._delivered(session)
        self._lists.track(recipients)
        if any(self._lists.is_waiting(user_id, now_ms) for user_id in recipients):
            return Sharing.WAITING
        devices = self._devices(recipients)
        if session is not None and self._has_strangers(session, devices):
            session = None
        plan = self._plan(session, devices.values(), now_ms)
        if plan.claim:
            self._claims.want(plan.claim)
            return Sharing.WAITING
        session = session or self._create(room_id, settings, now_ms)
        session = self._hand_out(room_id, session, plan)
        self._pending_changes.put(_KIND, room_id, session)
        self._checked[room_id] = (session.session_id, self._lists.version, recipients)
        return self._delivered(session)

    def encrypt(self, room_id: str, event_type: str, content: dict[str, Any]) -> dict[str, Any]:
        """Returns the content of an `m.room.encrypted` room event; `share` must have said READY
        just before."""
        saved = self._load(room_id)
        assert saved is not None, "a room key must be shared before it is used"
        assert self._delivered(saved) is Sharing.READY, "a room key must arrive before it is used"
        payload = {"type": event_type, "content": content, "room_id": room_id}
        session = OutboundGroupSession.from_pickle(Pickle(saved.pickle), self._pickle_key)
        ciphertext = session.encrypt(canonical_json.encode(payload))
        moved = msgspec.structs.replace(
            saved, pickle=session.pickle(self._pickle_key), messages=saved.messages + 1
        )
        self._pending_changes.put(_KIND, room_id, moved)
        encrypted: dict[str, Any] = {
            "algorithm": MEGOLM,
            "sender_key": self._own.curve25519,
            "device_id": self._own.device_id,
            "session_id": saved.session_id,
            "ciphertext": ciphertext,
        }
        if "m.relates_to" in content:  # in the clear for servers; readers prefer the copy inside
            encrypted["m.relates_to"] = content["m.relates_to"]
        return encrypted

    def session_id(self, room_id: str) -> str | None:
        """Returns the present session's ID, or None if the next message makes one."""
        saved = self._load(room_id)
        return None if saved is None else saved.session_id

    def _current(self, room_id: str, settings: RoomSettings, now_ms: int) -> OutboundSession | None:
        saved = self._load(room_id)
        if saved is None:
            return None
        is_spent = saved.messages >= settings.rotation_messages
        is_old = not 0 <= now_ms - saved.created_ms < settings.rotation_ms
        if is_spent or is_old or saved.shares_history != settings.shares_history:
            return None
        return saved

    def _is_checked(
        self, room_id: str, session: OutboundSession, recipients: frozenset[str]
    ) -> bool:
        wanted = (session.session_id, self._lists.version, recipients)
        has_unreached = any(
            code == WithheldCode.NO_OLM.value
            for codes in session.withheld.values()
            for code in codes.values()
        )
        return self._checked.get(room_id) == wanted and not has_unreached

    def _delivered(self, session: OutboundSession) -> Sharing:
        is_waiting = self._outbox.has_for(session.session_id)
        return Sharing.WAITING if is_waiting else Sharing.READY

    def _devices(self, recipients: frozenset[str]) -> dict[tuple[str, str], Device]:
        return {
            (user_id, device.device_id): device
            for user_id in sorted(recipients)
            for device in self._lists.of(user_id).devices.values()
        }

    @staticmethod
    def _has_strangers(session: OutboundSession, devices: Mapping[tuple[str, str], Device]) -> bool:
        """Returns whether a device may have the session that isn't (with that key) a recipient
        now."""
        for user_id, shared in session.shared.items():
            for device_id, curve25519 in shared.items():
                device = devices.get((user_id, device_id))
                if device is None or device.curve25519 != curve25519:
                    return True
        return False

    def _plan(
        self, session: OutboundSession | None, devices: Iterable[Device], now_ms: int
    ) -> _Plan:
        share: list[Device] = []
        withhold: list[tuple[Device, WithheldCode]] = []
        claim: list[Device] = []
        for device in devices:
            decision = key_sharing(device, self._own)
            if decision is None or (session is not None and _has(session.shared, device)):
                continue
            if isinstance(decision, Withhold):
                withhold.append((device, decision.code))
                continue
            assert isinstance(decision, Share)
            if self._channels.of(device).sessions:
                share.append(device)
            elif self._channels.may_claim(device, now_ms):
                claim.append(device)
            else:
                withhold.append((device, WithheldCode.NO_OLM))
        return _Plan(tuple(share), tuple(withhold), tuple(claim))

    def _create(self, room_id: str, settings: RoomSettings, now_ms: int) -> OutboundSession:
        session = OutboundGroupSession.new()
        shares_history = settings.shares_history
        inbound = InboundGroupSession.from_session_key(session.session_key())
        self._room_keys.add_own(room_id, inbound, shares_history=shares_history)
        pickle = session.pickle(self._pickle_key)
        return OutboundSession(session.session_id, pickle, now_ms, 0, shares_history)

    def _hand_out(self, room_id: str, saved: OutboundSession, plan: _Plan) -> OutboundSession:
        shared = {user_id: dict(devices) for user_id, devices in saved.shared.items()}
        withheld = {user_id: dict(devices) for user_id, devices in saved.withheld.items()}
        content = self._room_key(room_id, saved) if plan.share else {}
        for device in plan.share:
            message = self._channels.encrypt(device, "m.room_key", content)
            self._outbox.add("m.room.encrypted", device, message, session_id=saved.session_id)
            shared.setdefault(device.user_id, {})[device.device_id] = device.curve25519
            withheld.get(device.user_id, {}).pop(device.device_id, None)
        for device, code in plan.withhold:
            codes = withheld.setdefault(device.user_id, {})
            if codes.get(device.device_id) != code.value:
                codes[device.device_id] = code.value
                self._tell_withheld(room_id, saved.session_id, device, code)
        self._outbox.flush()
        return msgspec.structs.replace(saved, shared=shared, withheld=withheld)

    def _room_key(self, room_id: str, saved: OutboundSession) -> dict[str, Any]:
        session = OutboundGroupSession.from_pickle(Pickle(saved.pickle), self._pickle_key)
        return {
            "algorithm": MEGOLM,
            "room_id": room_id,
            "session_id": saved.session_id,
            "session_key": session.session_key(),  # rule 2: at the present index
            "shared_history": saved.shares_history,
        }

    def _tell_withheld(
        self, room_id: str, session_id: str, device: Device, code: WithheldCode
    ) -> None:
        content: dict[str, Any] = {
            "algorithm": MEGOLM,
            "code": code.value,
            "sender_key": self._own.curve25519,
        }
        if code is WithheldCode.NO_OLM:  # told once, for all sessions
            if not self._channels.note_told_no_olm(device):
                return
        else:
            content |= {"room_id": room_id, "session_id": session_id}
        self._outbox.add("m.room_key.withheld", device, content)

    def _load(self, room_id: str) -> OutboundSession | None:
        return self._pending_changes.load(_KIND, room_id, OutboundSession)


def _has(shared: Mapping[str, Mapping[str, str]], device: Device) -> bool:
    return shared.get(device.user_id, {}).get(device.device_id) == device.curve25519
