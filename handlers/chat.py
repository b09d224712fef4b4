"""/ws/chat: rooms, conversations of two users, unread counts and presence (sluice.v2).

Messages of a room come from its fanout, starting where the client joined. Messages of conversations are sent without a
join, from the user's read position. They are sent one stream after the other, and no faster than the client reads.
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.client_message import Message
from handlers.core.disconnects import STREAM_LOST
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler
from works.chat.joined_rooms import JoinedRooms
from works.chat.places import EVERYBODY, Place, room
from works.chat.unread import Inbox
from works.errors import Busy, WorkError
from works.events.broker import Event
from works.events.fanout import StreamFanout

# Maximum number of messages of a client that wait to be stored, and most waiting requests. chat_rate allows fewer of
# each per second.
_MAX_WAITING = 100

Name = Field(min_length=1, max_length=100, pattern=r"^[^\s/]+$")
User = Field(None, min_length=1, max_length=200)
# The length limit makes pydantic refuse lone surrogates, which cannot be stored.
Stream = Field(min_length=1, max_length=210)


class Join(Message):
    type: Literal["join"]
    room: str = Name
    after: int | None = Field(None, ge=0)
    epoch: str | None = Field(None, max_length=100)


class InRoom(Message):
    """The messages ``leave`` and ``presence``."""

    room: str = Name


class Typing(Message):
    room: str | None = None
    to: str | None = User


class Send(Typing):
    client_id: str = Field(min_length=1, max_length=100)
    text: str = ""
    attachments: list[str] = Field(default=[], max_length=10)

    def check_text(self, limit: int) -> None:
        """Raises WorkError for more than ``limit`` characters, and for a message without content."""
        if len(self.text) > limit:
            raise WorkError("too_large", f"text: at most {limit:,} characters (chat_text)")
        if not self.text.strip() and not self.attachments:
            raise WorkError("bad_message", "text: the message has no text and no attachment")


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
    description = f"Sends messages to rooms and users over {SUBPROTOCOL}. docs/messaging.md describes the messages."
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
        self._fanouts: dict[str, StreamFanout] = {}  # stream -> the fanout that this connection listens to
        self._request_lock, self._requests = asyncio.Lock(), 0
        self._sends: asyncio.Queue[tuple[Place, Send]] = asyncio.Queue(_MAX_WAITING)
        settings, chat = self.context.chat, self.services.chat
        self._joined = JoinedRooms(self.user.name, settings.chat_rooms, self._may_enter)
        self._inbox = Inbox(chat, self.user.name, self._connection, self.send, self.deliver, self.lost, self._joined)
        limits = {name: getattr(settings, name) for name in ("chat_text", "chat_rooms", "chat_rate")}
        self.send({"type": "hello", "user": self.user.name, "expires_at": self.user.expires_at, "limits": limits})
        try:
            broadcasts = await self._listen(EVERYBODY, _unchanged)
            broadcasts.members[self] = broadcasts.offset
            await self._inbox.begin(self._may_enter, settings.chat_rooms)
        except BaseException:
            self.closed()
            raise
        self.spawn(self._inbox.run())
        self.spawn(self._send_all())

    def _may_enter(self, name: str) -> bool:
        """Returns whether the current token, which may have been renewed, allows the room."""
        return self.user.may_enter(name)

    async def _listen(self, stream: str, write: Callable[[Event], str]) -> StreamFanout:
        """Adds this connection to the fanout of the stream. Returns the fanout."""
        if stream not in self._fanouts:
            self._fanouts[stream] = await self.services.chat.fanout.open(stream, write, self)
        return self._fanouts[stream]

    def _unlisten(self, stream: str) -> None:
        if fanout := self._fanouts.pop(stream, None):
            self.services.chat.fanout.leave(fanout, self)

    def within_rate(self) -> bool:
        """Sends a warning when half of the burst is used up, because pasting text must not disconnect a user."""
        within = super().within_rate()
        low = self.rate.left < self.rate.per_second
        if within and low and not self._warned:
            text = f"{self.rate.per_second} messages a second are let pass (chat_rate); more will end this connection"
            self.send({"type": "warning", "code": "busy", "message": text})
        self._warned = low
        return within

    def on_join(self, message: Join, payload: memoryview) -> None:
        self._joined.check_join(message.room)
        self._joined[message.room] = self.spawn(self._join(message, room(message.room)))

    async def _join(self, message: Join, place: Place) -> None:
        chat, me = self.services.chat, self.user.name
        try:
            await chat.unfollowed(place, me)
            fanout = await self._listen(place.stream, place.as_message)
            live = await self._listen(place.live, _unchanged)
            recovered = message.after is None or await chat.broker.recovers(
                place.stream, message.epoch or fanout.epoch, message.after
            )
            live.members[self] = live.offset
            await chat.enter(place, me, self._connection)
            present = await chat.presence.present(place.live)
            mark = (await chat.marks(me)).get(place) or await chat.follow(place, me, fanout.offset)
        except OSError as error:
            self._leave(place)
            failed = WorkError("internal", f"{error}; join again", temporary=True)
            return self.reply_error(failed, {"room": message.room})
        start = message.after if recovered and message.after is not None else fanout.offset
        self.send(
            {
                "type": "joined",
                "room": message.room,
                "stream": place.wire_name(me),
                "epoch": fanout.epoch,
                "offset": fanout.offset,
                "recovered": recovered,
                "read": mark.offset,
                "present": present,
                "unread": max(fanout.offset - mark.offset, 0),
            }
        )
        async for text in fanout.replay(start):
            await self.deliver(text)
        fanout.members[self] = max(start, fanout.offset)
        self._inbox.unwatch(place)

    def on_leave(self, message: InRoom, payload: memoryview) -> None:
        place = self._joined.place(message.room)
        self._joined[message.room].cancel()
        self._leave(place)
        self.services.chat.unfollow(place, self.user.name)

    async def _renew_token(self, token: str) -> None:
        await super()._renew_token(token)
        for name in [name for name in self._joined if not self.user.may_enter(name)]:
            self._joined[name].cancel()
            self._leave(room(name))
            self.reply_error(WorkError("forbidden", f"room: the new token does not allow {name!r}"), {"room": name})

    def _leave(self, place: Place) -> None:
        self._joined.pop(place.room, None)
        self._unlisten(place.stream)
        self._unlisten(place.live)
        self.services.chat.later(self.services.chat.leave(place, self.user.name, self._connection))

    def on_send(self, message: Send, payload: memoryview) -> None:
        """Queues a message to be stored. Raises WorkError for an invalid message, Busy when too many are waiting."""
        place = self._joined.addressee(message.type, message.room, message.to)
        message.check_text(self.context.chat.chat_text)
        try:
            self._sends.put_nowait((place, message))
        except asyncio.QueueFull:
            raise Busy(f"{_MAX_WAITING} messages of this connection are already waiting", 1000) from None

    async def _send_all(self) -> None:
        """Stores messages one after the other, in the order in which they arrived.

        A message that is being stored is stored even when the connection closes.
        """
        while True:
            place, message = await self._sends.get()
            await asyncio.shield(self.services.chat.later(self._store(place, message)))

    async def _store(self, place: Place, message: Send) -> None:
        chat, me = self.services.chat, self.user.name
        try:
            attached = await self.services.uploads.attach(me, message.attachments) if message.attachments else []
            offset = await chat.post(place, me, message.text, attached, message.client_id)
        except WorkError as error:
            self.reply_error(error, {"client_id": message.client_id})
        except OSError:
            failed = WorkError("internal", "the message could not be stored; send it again", temporary=True)
            self.reply_error(failed, {"client_id": message.client_id})
        else:
            stream = place.wire_name(me)
            self.send({"type": "ack", "client_id": message.client_id, "stream": stream, "offset": offset})

    def on_read(self, message: Read, payload: memoryview) -> None:
        place = self._joined.readable(message.stream)
        self._enqueue(self.services.chat.read(place, self.user.name, message.offset), stream=message.stream)

    def on_history(self, message: History, payload: memoryview) -> None:
        self._enqueue(self._history(message, self._joined.readable(message.stream)), stream=message.stream)

    async def _history(self, message: History, place: Place) -> None:
        max_bytes = self.context.sockets.outbox // 2
        page = await self.services.chat.page(place, message.stream, message.before, message.limit, max_bytes)
        await self.deliver(page)

    def on_presence(self, message: InRoom, payload: memoryview) -> None:
        self._enqueue(self._presence(self._joined.place(message.room)), room=message.room)

    async def _presence(self, place: Place) -> None:
        present = await self.services.chat.presence.present(place.live)
        self.send({"type": "presence", "room": place.room, "present": present})

    def on_typing(self, message: Typing, payload: memoryview) -> None:
        chat, me = self.services.chat, self.user.name
        place = self._joined.addressee(message.type, message.room, message.to)
        if place.room:
            work = chat.publish(place.live, {"type": "typing", "stream": place.wire_name(me), "from": me})
        else:
            work = chat.notify(
                str(message.to), {"type": "typing", "stream": place.wire_name(str(message.to)), "from": me}
            )
        self._enqueue(work)

    def on_broadcast(self, message: BroadcastMessage, payload: memoryview) -> None:
        """Sends an announcement to all users. Raises WorkError without the scope ``admin``."""
        if "admin" not in self.user.scopes:
            raise WorkError("forbidden", "scope missing: the token's scope must include 'admin'")
        self._enqueue(self.services.chat.announce(self.user.name, message.text))

    def _enqueue(self, work: Coroutine[Any, Any, None], **echoed: str) -> None:
        """Runs requests one after the other. So a ``history`` after a ``read`` sees its effect. Raises Busy."""
        if self._requests >= _MAX_WAITING:
            work.close()
            raise Busy(f"{_MAX_WAITING} requests of this connection are already waiting", 1000)
        self._requests += 1

        def end(task: "asyncio.Task[None]") -> None:
            self._requests -= 1
            work.close()  # the connection may close before the request starts

        self.spawn(self._run(work, echoed)).add_done_callback(end)

    async def _run(self, work: Coroutine[Any, Any, None], echoed: dict[str, str]) -> None:
        try:
            async with self._request_lock:
                await work
        except OSError:
            self.reply_error(WorkError("internal", "event store unavailable; try again later", temporary=True), echoed)

    def touched(self, stream: str) -> None:
        """Does nothing. It is called while a room is being joined, and ``_join`` sends the messages of that room."""

    def lost(self, stream: str) -> None:
        self.disconnect(STREAM_LOST)

    def closed(self) -> None:
        chat, me = self.services.chat, self.user.name
        for stream in list(self._fanouts):
            self._unlisten(stream)
        for name in self._joined:
            chat.later(chat.leave(room(name), me, self._connection))
        self._inbox.close()


def _unchanged(event: Event) -> str:
    return event.data


routes = [(r"/ws/chat", ChatWebSocket)]
