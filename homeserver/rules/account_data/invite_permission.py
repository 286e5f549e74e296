"""Whether a user takes invites: `m.invite_permission_config`.

Spec: client-server API, "Invite permission". A missing, invalid or unsupported value means that
invites are accepted.
"""

from __future__ import annotations

INVITE_PERMISSION = "m.invite_permission_config"


def blocks_invites(content: object) -> bool:
    """Returns whether the content of an m.invite_permission_config blocks all invites."""
    return isinstance(content, dict) and content.get("default_action") == "block"
