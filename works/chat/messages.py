"""Stores and reads chat messages. Each place is a durable stream. The position up to which a user has read it is a
mark.

When a sender gets an acknowledgement, the message is on its stream and its receiver has a mark there. The connections
of the receiver, on any server, are notified on a volatile stream of that user. A notification may be lost. After a
reconnect, missed messages are counted from the marks.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from works.chat.places import EVERYBODY, Place, as_message, place_of_stream, quoted, user_stream
from works.events.broker import Broker, Event
from works.events.fanout import Fanout
from works.events.marks import Mark, Marks
from works.events.presence import Presence

T = TypeVar("T")

# Seconds that a volatile stream of a user or a room is retained after its last connection has left.
_LIVE_TTL = 60.0


class Chat:
    """``frame`` encodes a text as a WebSocket frame."""

    def __init__(self, broker: Broker, marks: Marks, presence: Presence, frame: Callable[[str], bytes]) -> None:
        self.fanout = Fanout(broker, frame)
        self.broker, self.presence, self._marks = broker, presence, marks
        self._tasks: set[asyncio.Task[Any]] = set()
        self._leaving: dict[tuple[Place, str], asyncio.Task[None]] = {}

    async def post(
        self, place: Place, sender: str, text: str, attachments: list[dict[str, Any]], client_id: str | None
    ) -> int:
        """Stores a message durably and returns its offset. A repeated ``client_id`` returns the offset of the first
        message.

        The sender's mark, if there is one, moves to the new message. After an OSError the message may or may not be
        stored. Posting it again with the same ``client_id`` is safe.
        """
        for user in place.users:
            await self._marks.set(place.stream, user, 0)
        message = {"from": sender, "at": round(time.time() * 1000), "text": text, "attachments": attachments}
        id = None if client_id is None else f"{quoted(sender)}/{client_id}"
        offset = await self.broker.append(place.stream, json.dumps(message, separators=(",", ":")), id=id)
        await self._marks.advance(place.stream, sender, offset)
        for user in place.users:
            await self.notify(user, {"stream": place.stream})
        return offset

    async def read(self, place: Place, reader: str, offset: int) -> None:
        """Moves the reader's mark to ``offset``. Does nothing when the reader has no mark."""
        if await self._marks.advance(place.stream, reader, offset):
            await self.notify(reader, {"stream": place.stream})

    async def follow(self, place: Place, user: str, offset: int) -> Mark:
        """Starts to count messages after ``offset`` as unread, on all devices of the user."""
        mark = await self._marks.set(place.stream, user, offset)
        await self.notify(user, {"stream": place.stream})
        return mark

    def unfollow(self, place: Place, user: str) -> None:
        """Stops counting for the user. This runs in the background, even when the connection closes."""
        self._leaving[place, user] = self.later(self._unfollow(place, user))

    async def unfollowed(self, place: Place, user: str) -> None:
        """Waits for a running ``unfollow``, which would otherwise undo a later ``follow``."""
        if leaving := self._leaving.get((place, user)):
            await asyncio.wait({leaving})

    async def _unfollow(self, place: Place, user: str) -> None:
        try:
            await self._marks.remove(place.stream, user)
            await self.notify(user, {"stream": place.stream, "left": True})
        finally:
            if self._leaving.get((place, user)) is asyncio.current_task():
                del self._leaving[place, user]

    async def notify(self, user: str, event: dict[str, Any]) -> None:
        """Sends the event to the user's connections. Does nothing when there are none."""
        if await self.presence.present(user_stream(user)):
            await self.broker.append(user_stream(user), json.dumps(event, separators=(",", ":")), durable=False)

    async def publish(self, stream: str, message: dict[str, Any]) -> None:
        """Sends the message to all subscribers of a volatile stream."""
        await self.broker.append(stream, json.dumps(message, separators=(",", ":")), durable=False)

    async def enter(self, place: Place, user: str, connection: str) -> None:
        if await self.presence.enter(place.live, user, connection):
            await self.broker.expire(place.live, None)
            await self.publish(place.live, {"type": "presence", "room": place.room, "entered": user})

    async def leave(self, place: Place, user: str, connection: str) -> None:
        if await self.presence.leave(place.live, user, connection):
            await self.publish(place.live, {"type": "presence", "room": place.room, "left": user})
            await self._expire_if_empty(place.live)

    async def disconnect(self, user: str, connection: str) -> None:
        """Called when a connection of the user has closed."""
        if await self.presence.leave(user_stream(user), user, connection):
            await self._expire_if_empty(user_stream(user))

    async def announce(self, sender: str, text: str) -> None:
        """Sends an announcement to all connections."""
        at = round(time.time() * 1000)
        await self.publish(EVERYBODY, {"type": "announcement", "from": sender, "at": at, "text": text})

    async def _expire_if_empty(self, stream: str) -> None:
        """Lets a volatile stream expire when no connection is present on it."""
        if not await self.presence.present(stream):
            await self.broker.expire(stream, _LIVE_TTL)

    async def history(self, place: Place, before: int | None, limit: int) -> list[Event]:
        """Returns ``limit`` messages before this offset, or the newest ones. The oldest of them is first."""
        head = (await self.broker.position(place.stream)).offset
        end = head if before is None else min(before - 1, head)
        events = await self.broker.read(place.stream, max(end - limit, 0), limit)
        return [event for event in events if event.offset <= end]

    async def page(self, place: Place, wire: str, before: int | None, limit: int, most: int) -> str:
        """Returns a page of history as a wire message.

        When the messages have more than ``most`` characters, it contains only the newest of them, at least one.
        """
        epoch = (await self.broker.position(place.stream)).epoch
        texts: list[str] = []
        first = size = 0
        for event in reversed(await self.history(place, before, limit)):
            text = as_message(wire, event)
            size += len(text)
            if texts and size > most:
                break
            texts.append(text)
            first = event.offset
        head = {"type": "history", "stream": wire, "epoch": epoch, "more": first > 1}
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"messages":[{",".join(reversed(texts))}]}}'

    async def marks(self, user: str) -> dict[Place, Mark]:
        """Returns every room and conversation of the user, with the user's mark."""
        found = await self._marks.of_reader(user)
        return {place: mark for stream, mark in found.items() if (place := place_of_stream(stream))}

    def later(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Runs a coroutine as a task that continues when the connection has closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # The event store is unavailable. Presence is forgotten when the process ends, or when it expires.
            task.exception()

    async def settle(self) -> None:
        """Waits for the tasks of ``later``."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
