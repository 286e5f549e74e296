"""A valid request of every operation, for tests that spoil one part of it.

Placeholders in parameters and bodies are filled from the scene: `{room}`, `{event}`, `{me}`,
`{other}`, `{device}`.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import quote

from homeserver.api.http.routes import Route

_PASSWORD_AUTH = {
    "type": "m.login.password",
    "identifier": {"type": "m.id.user", "user": "{me}"},
    "password": "not the password",
}
_SIGNED = {"user_id": "{me}", "usage": ["master"], "keys": {"ed25519:AAAA": "AAAA"}}

_BACKUP = {
    "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2",
    "auth_data": {"public_key": "AAAA"},
}
_BACKED_UP = {
    "first_message_index": 1,
    "forwarded_count": 0,
    "is_verified": True,
    "session_data": {"ciphertext": "AAAA"},
}

_DEHYDRATED_DEVICE = "/org.matrix.msc3814.v1/dehydrated_device"
_KEY_OF_DEVICE = {
    "user_id": "{me}",
    "device_id": "D",
    "algorithms": [],
    "keys": {"ed25519:D": "AAAA"},
    "signatures": {"{me}": {"ed25519:D": "AAAA"}},
    "dehydrated": True,
}

_EMAIL_TOKEN = {
    "client_secret": "secret",
    "email": "anna@mail.example",
    "send_attempt": 1,
    "next_link": "https://app.example/",
    "id_server": "id.example",
    "id_access_token": "token",
}
_BINDING = {
    "client_secret": "secret",
    "sid": "sid",
    "id_server": "id.example",
    "id_access_token": "token",
}
_PHONE_TOKEN = {
    "client_secret": "secret",
    "country": "GB",
    "phone_number": "07700900001",
    "send_attempt": 1,
}

PARAMETERS = {
    "roomId": "{room}",
    "roomIdOrAlias": "{room}",
    "userId": "{me}",
    "eventId": "{event}",
    "eventType": "m.room.topic",
    "stateKey": "",
    "txnId": "txn",
    "deviceId": "{device}",
    "keyName": "displayname",
    "roomAlias": "#alias:here.example",
    "filterId": "0",
    "receiptType": "m.read",
    "type": "org.example.data",
    "tag": "u.work",
    "kind": "override",
    "ruleId": ".m.rule.master",
    "server": "here.example",
    "version": "1",
    "sessionId": "c2Vzc2lvbg",
    "serverName": "here.example",
    "mediaId": "bWVkaWE",
    "fileName": "file.png",
    "authType": "m.login.password",
    "idpId": "oidc",
    "appserviceId": "irc",
    "networkId": "irc",
    "protocol": "irc",
    "relType": "m.thread",
}

BODIES: dict[str, dict[str, Any]] = {
    "PUT /directory/list/appservice/{networkId}/{roomId}": {"visibility": "private"},
    "POST /appservice/{appserviceId}/ping": {"transaction_id": "t"},
    "POST /register": {"username": "{fresh}", "password": "p", "auth": {"type": "m.login.dummy"}},
    **{
        f"POST {path}/{medium}/requestToken": body
        for path in ("/register", "/account/password", "/account/3pid")
        for medium, body in (("email", _EMAIL_TOKEN), ("msisdn", _PHONE_TOKEN))
    },
    "POST /freehold/validate_email": {},
    "POST /freehold/unsubscribe": {},
    "POST /auth/{authType}/fallback/web": {},
    "POST /freehold/sso/confirm": {},
    "POST /account/3pid/add": {"sid": "s", "client_secret": "s", "auth": _PASSWORD_AUTH},
    "POST /account/3pid/bind": _BINDING,
    "POST /account/3pid": {"three_pid_creds": _BINDING},
    "POST /account/3pid/unbind": {
        "medium": "email",
        "address": "anna@mail.example",
        "id_server": "id.example",
    },
    "POST /account/3pid/delete": {
        "medium": "email",
        "address": "anna@mail.example",
        "id_server": "id.example",
    },
    "POST /account/password": {"new_password": "new", "auth": _PASSWORD_AUTH},
    "POST /account/deactivate": {"auth": _PASSWORD_AUTH, "erase": False},
    "POST /login": {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "nobody"},
        "password": "x",
        "device_id": "D",
        "initial_device_display_name": "N",
    },
    "POST /logout": {},
    "POST /logout/all": {},
    "PUT /devices/{deviceId}": {"display_name": "Name"},
    "DELETE /devices/{deviceId}": {"auth": _PASSWORD_AUTH},
    "POST /delete_devices": {"devices": ["{device}"], "auth": _PASSWORD_AUTH},
    "PUT /profile/{userId}/{keyName}": {"displayname": "Name"},
    "PUT /uk.tcpip.msc4133/profile/{userId}/{keyName}": {"displayname": "Name"},
    "POST /createRoom": {
        "preset": "private_chat",
        "visibility": "private",
        "room_alias_name": "{fresh}",
        "name": "N",
        "topic": "T",
        "invite": ["{other}"],
        "invite_3pid": [],
        "room_version": "12",
        "creation_content": {"m.federate": True, "type": "t"},
        "initial_state": [{"type": "t", "state_key": "", "content": {"a": 1}}],
        "is_direct": False,
        "power_level_content_override": {"ban": 50, "events": {"t": 50}},
    },
    "POST /rooms/{roomId}/upgrade": {"new_version": "12", "additional_creators": ["{other}"]},
    "POST /rooms/{roomId}/join": {"reason": "r"},
    "POST /rooms/{roomId}/invite": {"user_id": "{other}", "reason": "r"},
    "POST /rooms/{roomId}/leave": {"reason": "r"},
    "POST /rooms/{roomId}/forget": {},
    "POST /rooms/{roomId}/kick": {"user_id": "{other}", "reason": "r"},
    "POST /rooms/{roomId}/ban": {"user_id": "{other}", "reason": "r"},
    "POST /rooms/{roomId}/unban": {"user_id": "{other}", "reason": "r"},
    "POST /join/{roomIdOrAlias}": {"reason": "r"},
    "POST /knock/{roomIdOrAlias}": {"reason": "r"},
    "PUT /directory/room/{roomAlias}": {"room_id": "{room}"},
    "PUT /directory/list/room/{roomId}": {"visibility": "private"},
    "POST /publicRooms": {
        "limit": 1,
        "since": "0",
        "filter": {"generic_search_term": "x", "room_types": [None]},
        "include_all_networks": False,
    },
    "PUT /rooms/{roomId}/send/{eventType}/{txnId}": {"msgtype": "m.text", "body": "x"},
    "PUT /rooms/{roomId}/redact/{eventId}/{txnId}": {"reason": "r"},
    "PUT /rooms/{roomId}/state/{eventType}": {"topic": "T"},
    "PUT /rooms/{roomId}/state/{eventType}/{stateKey}": {"topic": "T"},
    "POST /user/{userId}/filter": {
        "event_fields": ["type"],
        "event_format": "client",
        "presence": {"limit": 1, "types": ["a"], "not_senders": ["{me}"]},
        "room": {
            "rooms": ["{room}"],
            "not_rooms": [],
            "include_leave": True,
            "timeline": {"limit": 1, "contains_url": False},
            "state": {"lazy_load_members": True},
        },
    },
    "POST /keys/upload": {
        "device_keys": {
            "user_id": "{me}",
            "device_id": "{device}",
            "algorithms": ["m.megolm.v1.aes-sha2"],
            "keys": {"ed25519:{device}": "AAAA"},
            "signatures": {"{me}": {"ed25519:{device}": "AAAA"}},
        },
        "one_time_keys": {"curve25519:AAAA": "AAAA"},
        "fallback_keys": {"signed_curve25519:B": {"key": "AAAA", "signatures": {}}},
    },
    "POST /keys/query": {"device_keys": {"{other}": ["D"]}, "timeout": 10},
    "POST /keys/claim": {
        "one_time_keys": {"{other}": {"D": "signed_curve25519"}},
        "timeout": 10,
    },
    "POST /keys/device_signing/upload": {
        "master_key": _SIGNED,
        "self_signing_key": _SIGNED,
        "user_signing_key": _SIGNED,
        "auth": _PASSWORD_AUTH,
    },
    "POST /keys/signatures/upload": {"{me}": {"D": {"user_id": "{me}", "signatures": {}}}},
    "POST /room_keys/version": _BACKUP,
    "PUT /room_keys/version/{version}": {**_BACKUP, "version": "1"},
    f"PUT {_DEHYDRATED_DEVICE}": {
        "device_id": "D",
        "device_data": {"algorithm": "org.matrix.msc3814.v2", "device_pickle": "AAAA"},
        "initial_device_display_name": "N",
        "device_keys": _KEY_OF_DEVICE,
        "one_time_keys": {"signed_curve25519:A": {"key": "AAAA", "signatures": {}}},
        "fallback_keys": {"signed_curve25519:B": {"key": "AAAA", "signatures": {}}},
    },
    f"POST {_DEHYDRATED_DEVICE}/{{deviceId}}/events": {"next_batch": "s1.x.1:1.1.0.0"},
    "PUT /room_keys/keys": {"rooms": {"{room}": {"sessions": {"AAAA": _BACKED_UP}}}},
    "PUT /pushrules/global/{kind}/{ruleId}": {
        "actions": ["notify", {"set_tweak": "sound", "value": "default"}],
        "conditions": [{"kind": "event_match", "key": "content.body", "pattern": "a*b?c"}],
    },
    "PUT /pushrules/global/{kind}/{ruleId}/enabled": {"enabled": False},
    "PUT /pushrules/global/{kind}/{ruleId}/actions": {"actions": []},
    "PUT /room_keys/keys/{roomId}": {"sessions": {"AAAA": _BACKED_UP}},
    "PUT /room_keys/keys/{roomId}/{sessionId}": _BACKED_UP,
    "POST /user_directory/search": {"search_term": "x", "limit": 1},
    "POST /search": {"search_categories": {"room_events": {"search_term": "x"}}},
    "POST /_synapse/admin/v1/register": {
        "nonce": "00",
        "username": "{fresh}",
        "password": "p",
        "mac": "00",
        "admin": False,
        "displayname": "N",
        "user_type": None,
    },
    "POST /rooms/{roomId}/report": {"reason": "r"},
    "POST /rooms/{roomId}/report/{eventId}": {"reason": "r", "score": -100},
    "POST /users/{userId}/report": {"reason": "r"},
    "POST /refresh": {"refresh_token": "fhr_x"},
    "POST /login/get_token": {"auth": _PASSWORD_AUTH},
    "POST /user/{userId}/openid/request_token": {},
    "PUT /admin/lock/{userId}": {"locked": True},
    "PUT /admin/suspend/{userId}": {"suspended": True},
    "PUT /sendToDevice/{eventType}/{txnId}": {"messages": {"{other}": {"*": {"a": 1}}}},
    "POST /rooms/{roomId}/receipt/{receiptType}/{eventId}": {"thread_id": "main"},
    "POST /rooms/{roomId}/read_markers": {
        "m.fully_read": "{event}",
        "m.read": "{event}",
        "m.read.private": "{event}",
    },
    "PUT /rooms/{roomId}/typing/{userId}": {"typing": True, "timeout": 10},
    "PUT /presence/{userId}/status": {"presence": "unavailable", "status_msg": "S"},
    "POST /pushers/set": {
        "app_id": "org.example.app",
        "pushkey": "key",
        "kind": "http",
        "app_display_name": "A",
        "device_display_name": "D",
        "profile_tag": "t",
        "lang": "en",
        "data": {"url": "https://localhost/_matrix/push/v1/notify", "format": "event_id_only"},
        "append": False,
    },
    "PUT /user/{userId}/account_data/{type}": {"a": 1},
    "PUT /user/{userId}/rooms/{roomId}/account_data/{type}": {"a": 1},
    "PUT /user/{userId}/rooms/{roomId}/tags/{tag}": {"order": 0.5},
    "POST /_matrix/media/v3/upload": {},
    "POST /_matrix/media/v1/create": {},
    "PUT /_matrix/media/v3/upload/{serverName}/{mediaId}": {},
}

QUERIES: dict[str, dict[str, str]] = {
    "GET /sync": {
        "since": "",
        "timeout": "0",
        "filter": "{}",
        "full_state": "false",
        "set_presence": "offline",
        "use_state_after": "false",
    },
    "GET /rooms/{roomId}/messages": {
        "dir": "b",
        "from": "",
        "to": "",
        "limit": "1",
        "filter": "{}",
    },
    "GET /rooms/{roomId}/context/{eventId}": {"limit": "1", "filter": "{}"},
    **{
        f"GET /rooms/{{roomId}}/relations/{{eventId}}{rest}": {
            "from": "",
            "to": "",
            "dir": "b",
            "limit": "1",
            "recurse": "true",
        }
        for rest in ("", "/{relType}", "/{relType}/{eventType}")
    },
    "GET /rooms/{roomId}/timestamp_to_event": {"dir": "f", "ts": "0"},
    "GET /rooms/{roomId}/threads": {"from": "", "limit": "1", "include": "all"},
    "PUT /pushrules/global/{kind}/{ruleId}": {"before": "mine", "after": "mine"},
    "GET /mutual_rooms": {"user_id": "@bob:here.example"},
    "GET /uk.half-shot.msc2666/user/mutual_rooms": {"user_id": "@bob:here.example"},
    "GET /rooms/{roomId}/members": {"at": "", "membership": "join", "not_membership": "ban"},
    "GET /rooms/{roomId}/state/{eventType}": {"format": "event"},
    "GET /rooms/{roomId}/state/{eventType}/{stateKey}": {"format": "event"},
    **{
        f"{method} /room_keys/keys{rest}": {"version": "1"}
        for method in ("GET", "PUT", "DELETE")
        for rest in ("", "/{roomId}", "/{roomId}/{sessionId}")
    },
    "GET /thirdparty/user/{protocol}": {"nick": "x"},
    "GET /thirdparty/location/{protocol}": {"channel": "x"},
    "GET /thirdparty/user": {"userid": "{me}"},
    "GET /thirdparty/location": {"alias": "#alias:here.example"},
    **{
        f"{method} {_DEHYDRATED_DEVICE}/{{deviceId}}/events": {"from": "", "limit": "1"}
        for method in ("GET", "POST")
    },
    "GET /keys/changes": {"from": "", "to": ""},
    "GET /_matrix/federation/v1/openid/userinfo": {"access_token": "x"},
    "GET /notifications": {"from": "9", "limit": "1", "only": "highlight"},
    "GET /register/available": {"username": "x"},
    "GET /login/sso/redirect": {"redirectUrl": "https://app.example/", "action": "login"},
    "GET /login/sso/redirect/{idpId}": {"redirectUrl": "https://app.example/"},
    "GET /freehold/sso/callback": {"state": "s", "code": "c", "ticket": "t", "error": "e"},
    "GET /freehold/sso/confirm/{idpId}": {"session": "s"},
    "GET /freehold/validate_email": {"sid": "s", "token": "t"},
    "GET /freehold/unsubscribe": {"token": "t"},
    "POST /freehold/unsubscribe": {"token": "t"},
    "GET /auth/{authType}/fallback/web": {"session": "s"},
    "GET /_matrix/static/client/login/": {
        "device_id": "D",
        "initial_device_display_name": "Name",
    },
    "GET /register/m.login.registration_token/validity": {"token": "x"},
    "POST /register": {"kind": "user"},
    "POST /join/{roomIdOrAlias}": {"via": "here.example", "server_name": "here.example"},
    "POST /knock/{roomIdOrAlias}": {"via": "here.example", "server_name": "here.example"},
    "GET /rooms/{roomId}/hierarchy": {
        "suggested_only": "false",
        "limit": "1",
        "max_depth": "1",
        "from": "",
    },
    **{
        f"GET {path}": {"via": "here.example"}
        for path in (
            "/room_summary/{roomIdOrAlias}",
            "/im.nheko.summary/summary/{roomIdOrAlias}",
            "/im.nheko.summary/rooms/{roomIdOrAlias}/summary",
        )
    },
    "GET /publicRooms": {"limit": "1", "since": "0", "server": "here.example"},
    "POST /publicRooms": {"server": "here.example"},
    "POST /_matrix/media/v3/upload": {"filename": "file.png"},
    "PUT /_matrix/media/v3/upload/{serverName}/{mediaId}": {"filename": "file.png"},
    **{
        f"GET {prefix}/download/{{serverName}}/{{mediaId}}{rest}": {
            "timeout_ms": "0",
            "allow_remote": "false",
            "allow_redirect": "false",
        }
        for prefix in ("/media", "/_matrix/media/v3")
        for rest in ("", "/{fileName}")
    },
    **{
        f"GET {prefix}/thumbnail/{{serverName}}/{{mediaId}}": {
            "width": "96",
            "height": "96",
            "method": "crop",
            "animated": "false",
            "timeout_ms": "0",
            "allow_remote": "false",
        }
        for prefix in ("/media", "/_matrix/media/v3")
    },
    # The address is a private one: nothing is asked.
    **{
        f"GET {prefix}/preview_url": {"url": "http://localhost/", "ts": "1"}
        for prefix in ("/media", "/_matrix/media/v3")
    },
}

SPENT_BY = frozenset({"/logout", "/logout/all", "/account/deactivate", "/delete_devices"})
"""Operations after whose success the user can't ask any more."""

PAGES = frozenset(
    {
        "GET /freehold/validate_email",
        "POST /freehold/validate_email",
        "GET /freehold/unsubscribe",
        "POST /freehold/unsubscribe",
        "GET /auth/{authType}/fallback/web",
        "POST /auth/{authType}/fallback/web",
        "GET /_matrix/static/client/login/",
        "GET /login/sso/redirect",
        "GET /login/sso/redirect/{idpId}",
        "GET /freehold/sso/callback",
        "GET /freehold/sso/confirm/{idpId}",
        "POST /freehold/sso/confirm",
    }
)
"""Operations that answer browsers: with pages."""

BODY_METHODS = frozenset({"POST", "PUT", "DELETE"})


class Operation(NamedTuple):
    """One operation by method and template."""

    method: str
    template: str

    @property
    def name(self) -> str:
        """As the tables here name it: without the prefix."""
        for prefix in ("/_matrix/client/v3", "/_matrix/client/v1", "/_matrix/client/unstable"):
            if self.template.startswith(prefix):
                return f"{self.method} {self.template[len(prefix) :]}"
        return f"{self.method} {self.template}"

    @property
    def parameters(self) -> list[str]:
        """The names of the parts of its path."""
        parts = self.template.split("/")
        return [part[1:-1] for part in parts if part.startswith("{")]

    def path(self, filled: dict[str, str], spoiled: dict[str, str] | None = None) -> str:
        """The path with valid parameters, but for `spoiled` ones, which are put in as they are."""
        spoiled = spoiled or {}
        parts = []
        for part in self.template.split("/"):
            name = part[1:-1]
            if not part.startswith("{"):
                parts.append(part)
            elif name in spoiled:
                parts.append(spoiled[name])
            else:
                parts.append(quote(str(fill(PARAMETERS[name], filled)), safe=""))
        return "/".join(parts)

    def query(self) -> dict[str, str]:
        """Its query parameters with valid values."""
        return dict(QUERIES.get(self.name, {}))

    def body(self, filled: dict[str, str]) -> Any:
        """A valid body, or None for an operation that takes none."""
        found = BODIES.get(self.name)
        return None if found is None else fill(found, filled)


def fill(value: Any, filled: dict[str, str]) -> Any:
    """A value with its placeholders replaced, in keys too."""
    if isinstance(value, dict):
        return {fill(key, filled): fill(item, filled) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, filled) for item in value]
    if isinstance(value, str):
        for name, text in filled.items():
            value = value.replace("{" + name + "}", text)
    return value


def operations(routes: list[Route]) -> list[Operation]:
    """All operations of a table of routes, each once: paths below r0 lead to the handlers of v3."""
    return [
        Operation(route.method, route.template)
        for route in routes
        if not route.template.startswith(("/_matrix/client/r0/", "/_matrix/media/r0/"))
    ]
