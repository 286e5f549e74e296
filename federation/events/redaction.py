"""Redaction of PDUs and events (spec: client-server API, "Redactions"; room versions)."""

from __future__ import annotations

from federation.events import canonical_json, hashes
from federation.events.event import Event, load_event
from federation.events.redaction_rules import redact, redact_content

__all__ = ["redact", "redact_content", "redact_event"]


def redact_event(event: Event) -> Event:
    """Returns the redacted form of an event: same ID, same signatures, less content. Idempotent."""
    redacted = redact(canonical_json.decode_lenient(event.raw), event.version)
    return load_event(
        hashes.encode_checked_for(event.version, redacted), event.version, event.event_id
    )
