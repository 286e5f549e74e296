"""A small Telegram: people, groups, messages, and what others do there.

1. Each change has its place (`pts`) in the account's history; a client that was away asks for what
   came after the place that it knows (https://core.telegram.org/api/updates).
2. What the account did is noted in `seen`, in the order in which it came.

Runs in `.venv-bridges`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from tests.interop.appservices.telegram.mtproto import types

ME, IAN, ZOE = 1001, 2002, 3003
GARDEN, CELLAR = 500, 501
CENTER = 2
AVATAR = 77


def now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


def peer_id(target: Any) -> int:
    """The ID of a chat, of a person, or of the account itself."""
    if isinstance(target, types.InputPeerChat | types.PeerChat):
        return int(target.chat_id)
    if isinstance(target, types.InputPeerSelf | types.InputUserSelf):
        return ME
    return int(target.user_id)


class World:
    """All that there is."""

    def __init__(self, picture: bytes, push: Callable[[Any], None]) -> None:
        """`picture` is Ian's; `push` sends an update to the account's client."""
        self._push = push
        self.is_logged_in = False
        self.seen: list[dict[str, Any]] = []
        self.unknown: list[str] = []
        self.files = {AVATAR: picture}
        self.messages: dict[int, Any] = {}
        self.history: list[Any] = []
        self.names = {ME: "Alice", IAN: "Ian", ZOE: "Zoé"}
        self.reactions: dict[int, dict[int, str]] = {}
        self._groups = {GARDEN: "Garden", CELLAR: "Cellar"}
        self._last_message = 0

    # what there is

    def user(self, user_id: int) -> Any:
        """A person."""
        name = self.names[user_id]
        return types.User(
            id=user_id,
            is_self=user_id == ME,
            contact=user_id == IAN,
            access_hash=10 * user_id,
            first_name=name,
            username=name.lower() if name.isascii() else None,
            phone="15550001" if user_id == ME else None,
            photo=types.UserProfilePhoto(AVATAR, CENTER) if user_id == IAN else None,
        )

    def _group(self, number: int) -> Any:
        title, photo = self._groups[number], types.ChatPhotoEmpty()
        return types.Chat(number, title, photo, len(self.names), now(), 1, creator=True)

    def everything(self) -> dict[str, Any]:
        """All people and groups, as they go with each answer."""
        return {
            "users": [self.user(one) for one in self.names],
            "chats": [self._group(one) for one in self._groups],
        }

    @property
    def pts(self) -> int:
        """The place of the last change."""
        return 1 + len(self.history)

    def recorded(self, make: Callable[..., Any], *arguments: Any) -> Any:
        """A change that gets its place in the history."""
        change = make(*arguments, pts=self.pts + 1, pts_count=1)
        self.history.append(change)
        return change

    def updates(self, *changes: Any) -> Any:
        """Changes as a client is told of them."""
        return types.Updates(list(changes), date=now(), seq=0, **self.everything())

    def new_message(self, chat: int, by: int, text: str, **more: Any) -> Any:
        """A message that isn't told yet."""
        self._last_message += 1
        message = types.Message(
            id=self._last_message,
            peer_id=types.PeerChat(chat) if chat in self._groups else types.PeerUser(chat),
            from_id=types.PeerUser(by),
            out=by == ME,
            date=now(),
            message=text,
            **more,
        )
        self.messages[message.id] = message
        return message

    def new_picture(self, data: bytes, sizes: list[Any]) -> Any:
        """A picture for a message."""
        number = AVATAR + len(self.files)
        self.files[number] = data
        photo = types.Photo(number, number, b"reference", now(), sizes, CENTER)
        return types.MessageMediaPhoto(photo=photo)

    def reacted(self, by: int, message: int, emoji: str) -> Any:
        """The change of a reaction; "" takes it back."""
        given = self.reactions.setdefault(message, {})
        given.pop(by, None)
        if emoji:
            given[by] = emoji
        counts = [
            types.ReactionCount(types.ReactionEmoji(one), list(given.values()).count(one))
            for one in sorted(set(given.values()))
        ]
        recent = [
            types.MessagePeerReaction(types.PeerUser(who), now(), types.ReactionEmoji(one))
            for who, one in given.items()
        ]
        found = types.MessageReactions(counts, can_see_list=True, recent_reactions=recent)
        return types.UpdateMessageReactions(self.messages[message].peer_id, message, found)

    # what others do

    def _tell(self, change: Any) -> None:
        if self.is_logged_in:
            self._push(self.updates(change))

    def say(self, chat: int, by: int, text: str, reply_to: int | None = None) -> int:
        """Somebody writes a message; its ID."""
        header = None if reply_to is None else types.MessageReplyHeader(reply_to_msg_id=reply_to)
        message = self.new_message(chat, by, text, reply_to=header)
        self._tell(self.recorded(types.UpdateNewMessage, message))
        return int(message.id)

    def show(self, chat: int, by: int, picture: str, width: int, height: int) -> int:
        """Somebody sends a picture (bytes in hexadecimal); the message's ID."""
        data = bytes.fromhex(picture)
        media = self.new_picture(data, [types.PhotoSize("x", width, height, len(data))])
        message = self.new_message(chat, by, "", media=media)
        self._tell(self.recorded(types.UpdateNewMessage, message))
        return int(message.id)

    def sent_ms(self, message: int) -> int:
        """When a message was sent."""
        return 1000 * int(self.messages[message].date.timestamp())

    def rewrite(self, message: int, text: str) -> None:
        """Somebody edits a message."""
        found = self.messages[message]
        found.message, found.edit_date = text, now()
        self._tell(self.recorded(types.UpdateEditMessage, found))

    def delete(self, message: int) -> None:
        """Somebody takes a message back."""
        del self.messages[message]
        self._tell(self.recorded(types.UpdateDeleteMessages, [message]))

    def react(self, by: int, message: int, emoji: str) -> None:
        """Somebody reacts to a message."""
        self._tell(self.reacted(by, message, emoji))

    def type(self, by: int) -> None:
        """Somebody types in the garden."""
        action = types.SendMessageTypingAction()
        self._tell(types.UpdateChatUserTyping(GARDEN, types.PeerUser(by), action))

    def read(self, by: int, message: int) -> None:
        """Somebody reads what the account wrote to them."""
        self._tell(self.recorded(types.UpdateReadHistoryOutbox, types.PeerUser(by), message))

    def rename(self, by: int, name: str) -> None:
        """Somebody takes another name."""
        self.names[by] = name
        self._tell(types.UpdateUserName(by, name, "", []))
