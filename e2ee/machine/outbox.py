"""To-device messages that wait for the server's acknowledgement, over restarts too.

Rules:
1. A message is saved with its transaction ID before it is handed out.
2. They go out in the order in which they were made.
"""

from typing import Any

from e2ee.limits import TO_DEVICE_MESSAGES_MAX
from e2ee.machine.changes import PendingChanges
from e2ee.machine.devices.device_keys import Device
from e2ee.machine.devices.own_device import OwnDevice
from e2ee.machine.requests import SendToDevice

_KIND = "outbox"


class RequestQueue:
    """Waiting to-device requests, oldest first."""

    def __init__(self, pending_changes: PendingChanges, own: OwnDevice) -> None:
        self._pending_changes = pending_changes
        self._own = own
        saved = pending_changes.all(_KIND, SendToDevice).values()
        ordered = sorted(saved, key=lambda request: request.sequence)
        self._requests = {request.request_id: request for request in ordered}
        self._open: dict[tuple[str, str], list[tuple[Device, dict[str, Any]]]] = {}

    def add(
        self, event_type: str, device: Device, content: dict[str, Any], *, session_id: str = ""
    ) -> None:
        """Adds a message for a device; `flush` makes the requests."""
        self._open.setdefault((event_type, session_id), []).append((device, content))

    def flush(self) -> None:
        """Puts the added messages into requests of bounded size, one message a device in each."""
        for (event_type, session_id), messages in self._open.items():
            part: dict[tuple[str, str], dict[str, Any]] = {}
            for device, content in messages:
                where = (device.user_id, device.device_id)
                if where in part or len(part) == TO_DEVICE_MESSAGES_MAX:
                    self._add_request(event_type, session_id, part)
                    part = {}
                part[where] = content
            self._add_request(event_type, session_id, part)
        self._open.clear()

    def _add_request(
        self, event_type: str, session_id: str, part: dict[tuple[str, str], dict[str, Any]]
    ) -> None:
        messages: dict[str, dict[str, dict[str, Any]]] = {}
        for (user_id, device_id), content in part.items():
            messages.setdefault(user_id, {})[device_id] = content
        number = self._own.next_sequence()
        name = f"{self._own.device.device_id}-{number}"
        request = SendToDevice(name, number, event_type, messages, session_id)
        self._requests[name] = request
        self._pending_changes.put(_KIND, name, request)

    def waiting(self) -> tuple[SendToDevice, ...]:
        """Returns all requests not acknowledged yet, oldest first."""
        return tuple(self._requests.values())

    def has_for(self, session_id: str) -> bool:
        """Returns whether keys of a Megolm session are still on their way."""
        return any(request.session_id == session_id for request in self._requests.values())

    def acknowledge(self, request: SendToDevice) -> None:
        """Records that the server has the request."""
        if self._requests.pop(request.request_id, None) is not None:
            self._pending_changes.remove(_KIND, request.request_id)
