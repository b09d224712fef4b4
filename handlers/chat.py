"""/ws/chat: rooms, conversations of two, what is unread, who is there (sluice.v2).

A room's messages come by its hub, from where the client joined; those of conversations come by themselves, from what
the user has read on, one stream after the other and no faster than the socket takes them.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.disconnects import STREAM_LOST
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler, Message
from works.chat.places import EVERYBODY, Place, direct, parse_place, room
from works.chat.unread import Inbox
from works.errors import Busy, WorkError
from works.events.broker import Event
from works.events.fanout import StreamFanout

# Messages of a client that wait for the log, and questions; at the rate they are let in, more than a second's of each.
_UNSENT = 100

Name = Field(min_length=1, max_length=100, pattern=r"^[^\s/]+$")
User = Field(None, min_length=1, max_length=200)
# Bounded, and so of whole characters: a lone surrogate has no place in the log.
Stream = Field(min_length=1, max_length=210)


class Join(Message):
    type: Literal["join"]
    room: str = Name
    after: int | None = Field(None, ge=0)
    epoch: str | None = Field(None, max_length=100)


class InRoom(Message):
    """``leave``, ``presence``."""

    room: str = Name


class Typing(Message):
    room: str | None = None
    to: str | None = User


class Send(Typing):
    client_id: str = Field(min_length=1, max_length=100)
    text: str = ""
    attachments: list[str] = Field(default=[], max_length=10)


class Read(Message):
    type: Literal["read"]
    stream: str = Stream
    offset: int = Field(ge=0)


class History(Message):
    type: Literal["history"]
    stream: str = Stream
    before: int | None = Field(None, ge=1)
    limit: int = Field(50, ge=1, le=100)


class BroadcastMessage(Message):
    type: Literal["broadcast"]
    text: str = Field(min_length=1, max_length=4000)


class ChatWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "chat"
    description = (
        f"It speaks {SUBPROTOCOL}: join rooms, send messages to them or to a user; docs/messaging.md tells it all."
    )
    accepts: ClassVar[dict[str, type[Message]]] = {
        "join": Join,
        "leave": InRoom,
        "typing": Typing,
        "send": Send,
        "read": Read,
        "history": History,
        "presence": InRoom,
        "broadcast": BroadcastMessage,
    }

    echoed_members: ClassVar[tuple[str, ...]] = ("client_id", "room", "stream")
    rate_setting: ClassVar[str] = "chat_rate"
    _warned = False

    @property
    def messages_per_second(self) -> int:
        return self.context.chat.chat_rate

    async def opened(self) -> None:
        self._connection = secrets.token_hex(8)
        self._hubs: dict[str, StreamFanout] = {}  # what this connection hears of, by stream
        self._joined: dict[str, asyncio.Task[None]] = {}  # by room: what joins it
        self._turn, self._asked = asyncio.Lock(), 0
        self._sends: asyncio.Queue[tuple[Place, Send]] = asyncio.Queue(_UNSENT)
        settings, chat = self.context.chat, self.services.chat
        self._inbox = Inbox(chat, self.user.name, self._connection, self.send, self.deliver, self.lost, self._joined)
        limits = {name: getattr(settings, name) for name in ("chat_text", "chat_rooms", "chat_rate")}
        self.send({"type": "hello", "user": self.user.name, "expires_at": self.user.expires_at, "limits": limits})
        try:
            everybody = await self._listen(EVERYBODY, _as_it_is)
            everybody.members[self] = everybody.offset
            await self._inbox.begin(lambda name: self.user.may_enter(name), settings.chat_rooms)
        except BaseException:
            self.closed()
            raise
        self.spawn(self._inbox.run())
        self.spawn(self._send_all())

    async def _listen(self, stream: str, write: Callable[[Event], str]) -> StreamFanout:
        """The hub of the stream; this connection hears of it until it is closed."""
        if stream not in self._hubs:
            self._hubs[stream] = await self.services.chat.hubs.open(stream, write, self)
        return self._hubs[stream]

    def _unlisten(self, stream: str) -> None:
        if hub := self._hubs.pop(stream, None):
            self.services.chat.hubs.leave(hub, self)

    def within_rate(self) -> bool:
        """Warns when half of what is let pass is used up: people paste, and should not be thrown out for it."""
        within = super().within_rate()
        low = self.rate.left < self.rate.per_second
        if within and low and not self._warned:
            text = f"{self.rate.per_second} messages a second are let pass (chat_rate); more will end this connection"
            self.send({"type": "warning", "code": "busy", "message": text})
        self._warned = low
        return within

    def on_join(self, message: Join, payload: memoryview) -> None:
        most = self.context.chat.chat_rooms
        if message.room in self._joined:
            raise WorkError("bad_message", f"room: {message.room!r} is joined already")
        if not self.user.may_enter(message.room):
            raise WorkError("forbidden", f"the token's rooms do not include {message.room!r}")
        if len(self._joined) >= most:
            raise WorkError("bad_message", f"at most {most} rooms are joined at once (chat_rooms)")
        self._joined[message.room] = self.spawn(self._join(message, room(message.room)))

    async def _join(self, message: Join, place: Place) -> None:
        chat, me = self.services.chat, self.user.name
        try:
            await chat.unfollowed(place, me)
            hub = await self._listen(place.stream, place.as_message)
            live = await self._listen(place.live, _as_it_is)
            recovered = message.after is None or await chat.broker.recovers(
                place.stream, message.epoch or hub.epoch, message.after
            )
            live.members[self] = live.offset
            await chat.enter(place, me, self._connection)
            present = await chat.presence.present(place.live)
            mark = (await chat.marks(me)).get(place) or await chat.follow(place, me, hub.offset)
        except OSError as error:
            self._depart(place)
            failed = WorkError("internal", f"{error}; join again", temporary=True)
            return self.reply_error(failed, {"room": message.room})
        start = message.after if recovered and message.after is not None else hub.offset
        self.send(
            {
                "type": "joined",
                "room": message.room,
                "stream": place.wire_name(me),
                "epoch": hub.epoch,
                "offset": hub.offset,
                "recovered": recovered,
                "read": mark.offset,
                "present": present,
                "unread": max(hub.offset - mark.offset, 0),
            }
        )
        async for text in hub.replay(start):
            await self.deliver(text)
        hub.members[self] = max(start, hub.offset)
        self._inbox.unwatch(place)

    def on_leave(self, message: InRoom, payload: memoryview) -> None:
        place = self._in(message.room)
        self._joined[message.room].cancel()
        self._depart(place)
        self.services.chat.unfollow(place, self.user.name)

    async def _renew_token(self, token: str) -> None:
        await super()._renew_token(token)
        for name in [name for name in self._joined if not self.user.may_enter(name)]:
            self._joined[name].cancel()
            self._depart(room(name))
            self.reply_error(WorkError("forbidden", f"the new token's rooms do not include {name!r}"), {"room": name})

    def _depart(self, place: Place) -> None:
        self._joined.pop(place.room, None)
        self._unlisten(place.stream)
        self._unlisten(place.live)
        self.services.chat.later(self.services.chat.leave(place, self.user.name, self._connection))

    def on_send(self, message: Send, payload: memoryview) -> None:
        most = self.context.chat.chat_text
        place = self._place(message)
        if len(message.text) > most:
            raise WorkError("too_large", f"text: at most {most:,} characters (chat_text)")
        if not message.text.strip() and not message.attachments:
            raise WorkError("bad_message", "text: there is nothing to send")
        try:
            self._sends.put_nowait((place, message))
        except asyncio.QueueFull:
            raise Busy(f"{_UNSENT} messages of this connection wait already", 1000) from None

    async def _send_all(self) -> None:
        """One after the other, so that they stand in the log as they were sent. What is begun is done, whoever goes."""
        while True:
            place, message = await self._sends.get()
            await asyncio.shield(self.services.chat.later(self._say(place, message)))

    async def _say(self, place: Place, message: Send) -> None:
        chat, me = self.services.chat, self.user.name
        try:
            attached = await self.services.uploads.attach(me, message.attachments) if message.attachments else []
            offset = await chat.post(place, me, message.text, attached, message.client_id)
        except WorkError as error:
            self.reply_error(error, {"client_id": message.client_id})
        except OSError:
            away = WorkError("internal", "it could not be stored; send it again", temporary=True)
            self.reply_error(away, {"client_id": message.client_id})
        else:
            stream = place.wire_name(me)
            self.send({"type": "ack", "client_id": message.client_id, "stream": stream, "offset": offset})

    def on_read(self, message: Read, payload: memoryview) -> None:
        place = self._known(message.stream)
        self._ask(self.services.chat.read(place, self.user.name, message.offset), stream=message.stream)

    def on_history(self, message: History, payload: memoryview) -> None:
        self._ask(self._history(message, self._known(message.stream)), stream=message.stream)

    async def _history(self, message: History, place: Place) -> None:
        most = self.context.sockets.outbox // 2
        await self.deliver(await self.services.chat.page(place, message.stream, message.before, message.limit, most))

    def on_presence(self, message: InRoom, payload: memoryview) -> None:
        self._ask(self._presence(self._in(message.room)), room=message.room)

    async def _presence(self, place: Place) -> None:
        present = await self.services.chat.presence.present(place.live)
        self.send({"type": "presence", "room": place.room, "present": present})

    def on_typing(self, message: Typing, payload: memoryview) -> None:
        chat, me = self.services.chat, self.user.name
        place = self._place(message)
        if place.room:
            told = chat.publish(place.live, {"type": "typing", "stream": place.wire_name(me), "from": me})
        else:
            told = chat.notify(
                str(message.to), {"type": "typing", "stream": place.wire_name(str(message.to)), "from": me}
            )
        self._ask(told)

    def on_broadcast(self, message: BroadcastMessage, payload: memoryview) -> None:
        if "admin" not in self.user.scopes:
            raise WorkError("forbidden", "the token's scope must include 'admin'")
        self._ask(self.services.chat.announce(self.user.name, message.text))

    def _ask(self, work: Coroutine[Any, Any, None], **named: str) -> None:
        """One after the other: who asks for the history after having said what is read finds it read."""
        if self._asked >= _UNSENT:
            work.close()
            raise Busy(f"{_UNSENT} requests of this connection wait already", 1000)
        self._asked += 1
        self.spawn(self._tried(work, named))

    async def _tried(self, work: Coroutine[Any, Any, None], named: dict[str, str]) -> None:
        try:
            async with self._turn:
                await work
        except OSError:
            self.reply_error(WorkError("internal", "the log cannot be reached; try again", temporary=True), named)
        finally:
            self._asked -= 1
            work.close()  # the connection may have closed before its turn

    def _in(self, name: str | None) -> Place:
        if name not in self._joined:
            raise WorkError("not_found", f"room: join {str(name)[:100]!r} first")
        return room(name)

    def _place(self, message: Typing) -> Place:
        if (message.room is None) == (message.to is None):
            raise WorkError("bad_message", f"{message.type}: say either room or to")
        return direct(self.user.name, message.to) if message.to else self._in(message.room)

    def _known(self, stream: str) -> Place:
        """A room that is joined, or a conversation of this user's own. Raises WorkError."""
        place = parse_place(stream, self.user.name)
        return self._in(place.room) if place.room else place

    def touched(self, stream: str) -> None:
        """A room that is being joined: its messages come in a moment."""

    def lost(self, stream: str) -> None:
        self.disconnect(STREAM_LOST)

    def closed(self) -> None:
        chat, me = self.services.chat, self.user.name
        for stream in list(self._hubs):
            self._unlisten(stream)
        for name in self._joined:
            chat.later(chat.leave(room(name), me, self._connection))
        self._inbox.close()


def _as_it_is(event: Event) -> str:
    return event.data


routes = [(r"/ws/chat", ChatWebSocket)]
