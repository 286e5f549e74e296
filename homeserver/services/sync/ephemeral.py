"""The data of a room beside its events in a sync: receipts, typing, account data, as JSON.

Rules:
1. A private receipt (`m.read.private`) is for its user alone.
2. One receipt event holds one receipt for each event, kind and user: if a user has one in a thread
   and another outside of it on the same event, they go into two receipt events.

Spec: client-server API, "Receipts", "Typing notifications", "Client Config".
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import orjson

from federation.events import event_types
from federation.events.ids import UserId
from homeserver.rules.ephemeral.receipts import PRIVATE
from homeserver.storage.ephemeral.receipts import ReceiptRow


def typing_event(user_ids: Collection[UserId]) -> bytes:
    """Returns an m.typing event."""
    return orjson.dumps({"type": event_types.TYPING, "content": {"user_ids": sorted(user_ids)}})


def receipt_events(receipts: Iterable[ReceiptRow], reader: UserId) -> list[bytes]:
    """Returns the m.receipt events of one room for one reader."""
    contents: list[dict[str, Any]] = []
    for receipt in receipts:
        if receipt.kind == PRIVATE and receipt.user_id != reader:
            continue
        data: dict[str, Any] = {"ts": receipt.ts}
        if receipt.thread:
            data["thread_id"] = receipt.thread
        _place(contents, receipt, data)
    return [orjson.dumps({"type": event_types.RECEIPT, "content": content}) for content in contents]


def _place(contents: list[dict[str, Any]], receipt: ReceiptRow, data: dict[str, Any]) -> None:
    """Puts a receipt into the first event that has none of this user for its kind and event; a
    newer one of the same thread replaces the older one."""
    for content in contents:
        users = content.setdefault(receipt.event_id, {}).setdefault(receipt.kind, {})
        present = users.get(receipt.user_id)
        if present is None or present.get("thread_id", "") == receipt.thread:
            users[receipt.user_id] = data
            return
    contents.append({receipt.event_id: {receipt.kind: {receipt.user_id: data}}})


def account_data_event(data_type: str, content: bytes) -> bytes:
    """Builds an account data event from its content's JSON."""
    return b'{"type":%b,"content":%b}' % (orjson.dumps(data_type), content)
