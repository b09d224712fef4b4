"""An Inbox is one connection's view of what concerns its user: conversations, brought up to date by themselves, and
how much is unread, there and in the rooms that this connection has not joined."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Container
from typing import Any

from works.chat.messages import Chat, Place, of_stream, of_user, written
from works.events.fanout import StreamFanout
from works.events.marks import Mark

# Messages read from the log at a time.
_PAGE = 256
# Seconds for which changes of what is unread are collected.
_LINGER = 0.25
# Seconds between tries when the log cannot be reached.
_RETRY = 1.0


class Inbox:
    """``send`` says something at once, ``deliver`` waits until it has been taken, ``lost`` ends the connection.

    ``joined`` are the names of the rooms that the connection has joined.
    """

    def __init__(
        self,
        chat: Chat,
        user: str,
        connection: str,
        send: Callable[[dict[str, Any]], object],
        deliver: Callable[[str], Awaitable[None]],
        lost: Callable[[str], None],
        joined: Container[str],
    ) -> None:
        self._chat, self._user, self._connection = chat, user, connection
        self._send, self._deliver, self.lost, self._joined = send, deliver, lost, joined
        self._own = of_user(user)
        self._watched: dict[str, StreamFanout] = {}
        self._sent_to: dict[str, int] = {}  # what this connection has of each conversation, by stream
        self._behind: dict[str, Place] = {}
        self._changed: set[Place] = set()
        self._more, self._count = asyncio.Event(), asyncio.Event()

    async def begin(self, may_enter: Callable[[str], bool], most_rooms: int) -> None:
        """Listens first and counts then: what comes in between is counted twice rather than never. Raises OSError."""
        self._may_enter, self._most_rooms = may_enter, most_rooms
        await self._chat.presence.enter(self._own, self._user, self._connection)
        await self._chat.broker.expire(self._own, None)
        own = await self._chat.hubs.open(self._own, lambda event: event.data, self)
        own.members[self] = own.offset
        marks = await self._chat.marks(self._user)
        counted = {place.seen_by(self._user): mark.unread for place, mark in marks.items() if self._may_see(place)}
        self._send({"type": "unread", "streams": counted})
        for place, mark in marks.items():
            if place.users:
                self._sent_to[place.stream] = mark.offset
                if mark.unread:
                    self._behind[place.stream] = place
            else:
                await self._watch(place, mark.head)
        self._more.set()

    async def _watch(self, place: Place, counted: int) -> None:
        """Tells from now on what is unread in a room, which was told up to the offset ``counted``."""
        if place.stream in self._watched or len(self._watched) >= self._most_rooms or not self._may_enter(place.room):
            return
        hub = await self._chat.hubs.open(place.stream, place.written, self)
        if place.room in self._joined:
            return self._chat.hubs.leave(hub, self)  # since then: its messages come, and need not be counted
        self._watched[place.stream] = hub
        if hub.offset != counted:
            self._note(place)

    async def run(self) -> None:
        """Brings conversations up to date and tells what is unread, until cancelled; waits for a log that is away."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bring_up_to_date())
            tasks.create_task(self._tell_unread())

    async def _bring_up_to_date(self) -> None:
        while True:
            while self._behind:
                stream, place = next(iter(self._behind.items()))
                del self._behind[stream]
                try:
                    await (self._catch_up(place) if place.users else self._watch(place, -1))
                except OSError:
                    self._behind[stream] = place
                    await asyncio.sleep(_RETRY)
            self._more.clear()
            await self._more.wait()

    async def _catch_up(self, place: Place) -> None:
        stream = place.seen_by(self._user)
        after = self._sent_to.get(place.stream, 0)
        while events := await self._chat.broker.read(place.stream, after, _PAGE):
            if events[0].offset != after + 1:
                self._send({"type": "resumed", "stream": stream, "recovered": False})
            for event in events:
                await self._deliver(written(stream, event))
            after = self._sent_to[place.stream] = events[-1].offset

    async def _tell_unread(self) -> None:
        while True:
            await self._count.wait()
            await asyncio.sleep(_LINGER)
            self._count.clear()
            try:
                marks = await self._chat.marks(self._user)
            except OSError:
                self._count.set()
                await asyncio.sleep(_RETRY)
                continue
            changed, self._changed = self._changed, set()
            behind = {place for place in changed if self._is_behind(place, marks)}
            for place in behind:
                self._note(place)
            told = (place for place in changed - behind if self._may_see(place))
            unread = {place.seen_by(self._user): marks[place].unread if place in marks else None for place in told}
            if unread:
                self._send({"type": "unread", "streams": unread})

    def _is_behind(self, place: Place, marks: dict[Place, Mark]) -> bool:
        """Counted before a message that was sent meanwhile: whoever counts that one would take it back again."""
        is_joined = place.room in self._joined and place in marks
        return is_joined and marks[place].head < self._chat.hubs.offset(place.stream)

    def _may_see(self, place: Place) -> bool:
        """What is unread in a room that the user may no longer enter could never be read."""
        return bool(place.users) or self._may_enter(place.room)

    def push(self, text: str, frame: bytes) -> None:
        """Something that concerns the user has happened: on a stream of theirs, or in passing."""
        event = json.loads(text)
        if "type" in event:
            self._send(event)
        elif place := of_stream(event["stream"]):
            if event.get("left"):
                self.unwatch(place)
            elif place.room not in self._joined:
                self._behind[place.stream] = place
                self._more.set()
            self._note(place)

    def touched(self, stream: str) -> None:
        if place := of_stream(stream):
            self._note(place)

    def _note(self, place: Place) -> None:
        self._changed.add(place)
        self._count.set()

    def unwatch(self, place: Place) -> None:
        """The room need not be counted: its messages come, or the user has left it."""
        if hub := self._watched.pop(place.stream, None):
            self._chat.hubs.leave(hub, self)

    def close(self) -> None:
        for hub in self._watched.values():
            self._chat.hubs.leave(hub, self)
        self._chat.hubs.unlisten(self._own, self)
        self._chat.later(self._chat.gone(self._user, self._connection))
