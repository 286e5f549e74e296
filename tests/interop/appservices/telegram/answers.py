"""What the small Telegram answers to the client of its account.

A request that isn't in `ANSWERS` is refused, and noted in the world's `unknown`.

Runs in `.venv-bridges`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from tests.interop.appservices.telegram.mtproto import Refusal, functions, types
from tests.interop.appservices.telegram.world import (
    CENTER,
    GARDEN,
    IAN,
    ME,
    World,
    now,
    peer_id,
)

storage: Any = import_module("telethon.tl.types.storage")

CODE = "12345"
UNLIMITED = (
    *("chat_size_max", "megagroup_size_max", "forwarded_count_max", "online_update_period_ms"),
    *("offline_blur_timeout_ms", "offline_idle_timeout_ms", "online_cloud_timeout_ms"),
    *("notify_cloud_delay_ms", "notify_default_delay_ms", "push_chat_period_ms"),
    *("push_chat_limit", "edit_time_limit", "revoke_time_limit", "revoke_pm_time_limit"),
    *("rating_e_decay", "stickers_recent_limit", "channels_read_media_period"),
    *("call_receive_timeout_ms", "call_ring_timeout_ms", "call_connect_timeout_ms"),
    *("call_packet_timeout_ms", "caption_length_max", "message_length_max", "webfile_dc_id"),
)


def answer(world: World, request: Any) -> Any:
    """The answer to a request. Raises Refusal."""
    known = ANSWERS.get(type(request))
    if known is None:
        world.unknown.append(str(request))
        raise Refusal(400, "METHOD_INVALID")
    if not world.is_logged_in and known not in (_config, _send_code, _sign_in):
        raise Refusal(401, "AUTH_KEY_UNREGISTERED")
    return known(world, request)


# Log-in


def _config(_world: World, _request: Any) -> Any:
    return types.Config(
        date=now(),
        expires=now(),
        test_mode=True,
        this_dc=CENTER,
        dc_options=[types.DcOption(CENTER, "127.0.0.1", 1)],
        dc_txt_domain_name="telegram.example",
        me_url_prefix="https://telegram.example/",
        **dict.fromkeys(UNLIMITED, 4096),
    )


def _send_code(_world: World, _request: Any) -> Any:
    return types.auth.SentCode(types.auth.SentCodeTypeSms(len(CODE)), "hash")


def _sign_in(world: World, request: Any) -> Any:
    if request.phone_code != CODE:
        raise Refusal(400, "PHONE_CODE_INVALID")
    world.is_logged_in = True
    return types.auth.Authorization(world.user(ME))


# What there is


def _state(world: World, _request: Any = None) -> Any:
    return types.updates.State(world.pts, 0, now(), 0, 0)


def _difference(world: World, request: Any) -> Any:
    missed = [one for one in world.history if one.pts > request.pts]
    if not missed:
        return types.updates.DifferenceEmpty(now(), 0)
    new = [one.message for one in missed if isinstance(one, types.UpdateNewMessage)]
    other = [one for one in missed if not isinstance(one, types.UpdateNewMessage)]
    return types.updates.Difference(new, [], other, state=_state(world), **world.everything())


def _users(world: World, request: Any) -> Any:
    return [world.user(peer_id(one)) for one in request.id]


def _contacts(world: World, _request: Any) -> Any:
    return types.contacts.Contacts([types.Contact(IAN, mutual=True)], 1, [world.user(IAN)])


def _app_config(_world: World, _request: Any) -> Any:
    return types.help.AppConfig(1, types.JsonObject([]))


def _available_reactions(_world: World, _request: Any) -> Any:
    nothing = types.DocumentEmpty(1)
    found = [
        types.AvailableReaction(emoji, emoji, nothing, nothing, nothing, nothing, nothing)
        for emoji in ("👍", "❤", "🎉")
    ]
    return types.messages.AvailableReactions(1, found)


def _newest(world: World, chat: int) -> Any:
    found = [one for one in world.messages.values() if peer_id(one.peer_id) == chat]
    return max(found, key=lambda one: int(one.id))


def _dialog(world: World, message: Any) -> Any:
    settings = types.PeerNotifySettings()
    return types.Dialog(message.peer_id, message.id, 0, 0, 0, 0, 0, settings)


def _dialogs(world: World, _request: Any) -> Any:
    last = _newest(world, GARDEN)
    return types.messages.Dialogs([_dialog(world, last)], [last], **world.everything())


def _peer_dialogs(world: World, request: Any) -> Any:
    last = _newest(world, peer_id(request.peers[0].peer))
    state = _state(world)
    dialogs = [_dialog(world, last)]
    return types.messages.PeerDialogs(dialogs, [last], state=state, **world.everything())


def _chats(world: World, _request: Any) -> Any:
    return types.messages.Chats(world.everything()["chats"])


def _full_chat(world: World, request: Any) -> Any:
    members = [types.ChatParticipantCreator(ME)]
    members += [types.ChatParticipant(one, ME, now()) for one in world.names if one != ME]
    participants = types.ChatParticipants(request.chat_id, members, 1)
    settings = types.PeerNotifySettings()
    full = types.ChatFull(request.chat_id, "Of plants", participants, settings)
    return types.messages.ChatFull(full, **world.everything())


def _past(world: World, request: Any) -> Any:
    found = [
        one
        for one in world.messages.values()
        if peer_id(one.peer_id) == peer_id(request.peer)
        and one.id > request.min_id
        and (not request.offset_id or one.id < request.offset_id)
    ]
    found.sort(key=lambda one: -int(one.id))
    return types.messages.Messages(found[: request.limit], **world.everything())


def _file(world: World, request: Any) -> Any:
    place = request.location
    data = world.files[getattr(place, "photo_id", None) or place.id]
    part = data[request.offset : request.offset + request.limit]
    return types.upload.File(storage.FilePng(), 0, part)


# What the account does


def _note(world: World, what: str, **more: Any) -> None:
    world.seen.append({"what": what, **more})


def _sent(world: World, request: Any, note: dict[str, Any], **more: Any) -> Any:
    chat, text = peer_id(request.peer), request.message
    reply_to = getattr(request.reply_to, "reply_to_msg_id", None)
    header = None if reply_to is None else types.MessageReplyHeader(reply_to_msg_id=reply_to)
    message = world.new_message(chat, ME, text, reply_to=header, **more)
    _note(world, "message", chat=chat, id=message.id, text=text, reply_to=reply_to, **note)
    name = types.UpdateMessageID(message.id, request.random_id)
    return world.updates(name, world.recorded(types.UpdateNewMessage, message))


def _send_message(world: World, request: Any) -> Any:
    return _sent(world, request, {})


def _save_part(world: World, request: Any) -> Any:
    world.files[request.file_id] = world.files.get(request.file_id, b"") + request.bytes
    return True


def _send_media(world: World, request: Any) -> Any:
    data = world.files.pop(request.media.file.id)
    media = world.new_picture(data, [])
    return _sent(world, request, {"picture": data.hex()}, media=media)


def _edit(world: World, request: Any) -> Any:
    message = world.messages[request.id]
    message.message, message.edit_date = request.message, now()
    _note(world, "edit", id=request.id, text=request.message)
    return world.updates(world.recorded(types.UpdateEditMessage, message))


def _delete(world: World, request: Any) -> Any:
    for one in request.id:
        del world.messages[one]
    _note(world, "deletion", ids=list(request.id))
    change = world.recorded(types.UpdateDeleteMessages, list(request.id))
    return types.messages.AffectedMessages(change.pts, 1)


def _react(world: World, request: Any) -> Any:
    emoji = "".join(one.emoticon for one in request.reaction or [])
    _note(world, "reaction", id=request.msg_id, emoji=emoji)
    return world.updates(world.reacted(ME, request.msg_id, emoji))


def _read(world: World, request: Any) -> Any:
    _note(world, "read", chat=peer_id(request.peer), upto=request.max_id)
    return types.messages.AffectedMessages(world.pts, 0)


def _read_more(world: World, _request: Any) -> Any:
    return types.messages.AffectedHistory(world.pts, 0, 0)


def _type(world: World, request: Any) -> Any:
    is_on = isinstance(request.action, types.SendMessageTypingAction)
    _note(world, "typing", chat=peer_id(request.peer), is_on=is_on)
    return True


def _be_online(world: World, request: Any) -> Any:
    _note(world, "online", is_on=not request.offline)
    return True


_messages = functions.messages
ANSWERS: dict[type, Callable[[World, Any], Any]] = {
    functions.help.GetConfigRequest: _config,
    functions.auth.SendCodeRequest: _send_code,
    functions.auth.SignInRequest: _sign_in,
    functions.updates.GetStateRequest: _state,
    functions.updates.GetDifferenceRequest: _difference,
    functions.users.GetUsersRequest: _users,
    functions.contacts.GetContactsRequest: _contacts,
    functions.help.GetAppConfigRequest: _app_config,
    functions.account.UpdateStatusRequest: _be_online,
    functions.upload.GetFileRequest: _file,
    functions.upload.SaveFilePartRequest: _save_part,
    _messages.GetAvailableReactionsRequest: _available_reactions,
    _messages.GetDialogsRequest: _dialogs,
    _messages.GetPeerDialogsRequest: _peer_dialogs,
    _messages.GetChatsRequest: _chats,
    _messages.GetFullChatRequest: _full_chat,
    _messages.GetHistoryRequest: _past,
    _messages.SendMessageRequest: _send_message,
    _messages.SendMediaRequest: _send_media,
    _messages.EditMessageRequest: _edit,
    _messages.DeleteMessagesRequest: _delete,
    _messages.SendReactionRequest: _react,
    _messages.ReadHistoryRequest: _read,
    _messages.ReadMentionsRequest: _read_more,
    _messages.ReadReactionsRequest: _read_more,
    _messages.SetTypingRequest: _type,
}
