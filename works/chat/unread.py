"""An Inbox counts what the user of one connection has not read.

It delivers the messages of conversations. It also sends the number of unread messages, for conversations and for the
user's rooms that this connection has not joined.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Container
from typing import Any

from works.chat.messages import Chat
from works.chat.places import Place, as_message, place_of_stream, user_stream
from works.events.fanout import StreamFanout
from works.events.marks import Mark

# Messages that are read from the event store at a time.
_PAGE = 256
# Seconds for which changes of unread counts are collected before they are sent.
_LINGER = 0.25
# Seconds between attempts while the event store is unavailable.
_RETRY = 1.0


class Inbox:
    """``send`` queues a message, ``deliver`` waits until the client has received it, ``lost`` closes the connection.

    ``joined`` has the names of the rooms that the connection has joined.
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
        self._user_stream = user_stream(user)
        self._fanouts: dict[str, StreamFanout] = {}
        self._sent_to: dict[str, int] = {}  # stream of a conversation -> last offset that was sent
        self._to_deliver: dict[str, Place] = {}
        self._changed: set[Place] = set()
        self._deliver_due, self._count_due = asyncio.Event(), asyncio.Event()

    async def begin(self, may_enter: Callable[[str], bool], most_rooms: int) -> None:
        """Subscribes first and counts then. So a message in between is counted twice, but never missed.
        Raises OSError.
        """
        self._may_enter, self._most_rooms = may_enter, most_rooms
        await self._chat.presence.enter(self._user_stream, self._user, self._connection)
        await self._chat.broker.expire(self._user_stream, None)
        own = await self._chat.fanout.open(self._user_stream, lambda event: event.data, self)
        own.members[self] = own.offset
        marks = await self._chat.marks(self._user)
        counted = {place.wire_name(self._user): mark.unread for place, mark in marks.items() if self._may_see(place)}
        self._send({"type": "unread", "streams": counted})
        for place, mark in marks.items():
            if place.users:
                self._sent_to[place.stream] = mark.offset
                if mark.unread:
                    self._to_deliver[place.stream] = place
            else:
                await self._watch(place, mark.head)
        self._deliver_due.set()

    async def _watch(self, place: Place, counted: int) -> None:
        """Starts to count unread messages of a room. The last count that was sent included the offset ``counted``."""
        if place.stream in self._fanouts or len(self._fanouts) >= self._most_rooms or not self._may_enter(place.room):
            return
        fanout = await self._chat.fanout.open(place.stream, place.as_message, self)
        if place.room in self._joined:
            # the room was joined in the meantime, so its messages are delivered and not counted
            return self._chat.fanout.leave(fanout, self)
        self._fanouts[place.stream] = fanout
        if fanout.offset != counted:
            self._mark_changed(place)

    async def run(self) -> None:
        """Delivers conversations and sends unread counts, until cancelled. Tries again while the event store is
        unavailable.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._deliver_missed())
            tasks.create_task(self._send_unread())

    async def _deliver_missed(self) -> None:
        while True:
            while self._to_deliver:
                stream, place = next(iter(self._to_deliver.items()))
                del self._to_deliver[stream]
                try:
                    await (self._catch_up(place) if place.users else self._watch(place, -1))
                except OSError:
                    self._to_deliver[stream] = place
                    await asyncio.sleep(_RETRY)
            self._deliver_due.clear()
            await self._deliver_due.wait()

    async def _catch_up(self, place: Place) -> None:
        stream = place.wire_name(self._user)
        after = self._sent_to.get(place.stream, 0)
        while events := await self._chat.broker.read(place.stream, after, _PAGE):
            if events[0].offset != after + 1:
                self._send({"type": "resumed", "stream": stream, "recovered": False})
            for event in events:
                await self._deliver(as_message(stream, event))
            after = self._sent_to[place.stream] = events[-1].offset

    async def _send_unread(self) -> None:
        while True:
            await self._count_due.wait()
            await asyncio.sleep(_LINGER)
            self._count_due.clear()
            try:
                marks = await self._chat.marks(self._user)
            except OSError:
                self._count_due.set()
                await asyncio.sleep(_RETRY)
                continue
            changed, self._changed = self._changed, set()
            early = {place for place in changed if self._counted_too_early(place, marks)}
            for place in early:
                self._mark_changed(place)
            visible = (place for place in changed - early if self._may_see(place))
            unread = {place.wire_name(self._user): marks[place].unread if place in marks else None for place in visible}
            if unread:
                self._send({"type": "unread", "streams": unread})

    def _counted_too_early(self, place: Place, marks: dict[Place, Mark]) -> bool:
        """Returns whether the mark was read before a message that was sent in the meantime. Its count would then be too
        low.
        """
        is_joined = place.room in self._joined and place in marks
        return is_joined and marks[place].head < self._chat.fanout.offset(place.stream)

    def _may_see(self, place: Place) -> bool:
        """Returns whether to count a place. Rooms that the user may no longer enter are not counted."""
        return bool(place.users) or self._may_enter(place.room)

    def push(self, text: str, frame: bytes) -> None:
        """Handles an event of the user's own stream: a change of a place, or a message to pass to the client."""
        event = json.loads(text)
        if "type" in event:
            self._send(event)
        elif place := place_of_stream(event["stream"]):
            if event.get("left"):
                self.unwatch(place)
            elif place.room not in self._joined:
                self._to_deliver[place.stream] = place
                self._deliver_due.set()
            self._mark_changed(place)

    def touched(self, stream: str) -> None:
        if place := place_of_stream(stream):
            self._mark_changed(place)

    def _mark_changed(self, place: Place) -> None:
        self._changed.add(place)
        self._count_due.set()

    def unwatch(self, place: Place) -> None:
        """Stops counting a room, because its messages are delivered or the user has left it."""
        if fanout := self._fanouts.pop(place.stream, None):
            self._chat.fanout.leave(fanout, self)

    def close(self) -> None:
        for fanout in self._fanouts.values():
            self._chat.fanout.leave(fanout, self)
        self._chat.fanout.unlisten(self._user_stream, self)
        self._chat.later(self._chat.disconnect(self._user, self._connection))
