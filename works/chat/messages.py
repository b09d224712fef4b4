"""Chat: rooms and conversations of two, each a durable stream; what a user has read is their mark on it.

A message to somebody is on its stream, and marked as theirs to read, before its sender hears that it was sent. The
user's connections, whichever server has them, are told of it on a stream of the user's own, which may be lost: what
they have not seen is counted from the marks when they come back.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from works.errors import WorkError
from works.events.broker import Broker, Event
from works.events.fanout import Fanout
from works.events.marks import Mark, Marks
from works.events.presence import Presence

T = TypeVar("T")

# What everybody who is connected is told.
EVERYBODY = "chat/everybody"
# Seconds that the stream by which a user or a room is told of passing things is kept when nobody is there.
_KEPT = 60.0
_LONGEST_NAME = 200  # of a user, as in tokens


@dataclass(frozen=True, slots=True)
class Place:
    """A room, or the conversation of two users. ``stream`` is its name in the log."""

    stream: str
    room: str = ""
    users: tuple[str, ...] = ()

    def seen_by(self, user: str) -> str:
        """Its name on the wire: ``room/NAME``, or ``direct/NAME`` of the other one."""
        if self.room:
            return f"room/{self.room}"
        return f"direct/{next((name for name in self.users if name != user), user)}"

    def written(self, event: Event) -> str:
        """A message of a room as it goes over the wire."""
        return written(f"room/{self.room}", event)

    @property
    def live(self) -> str:
        """The stream of what passes: who enters, leaves and types."""
        return f"chat/live/{_quoted(self.room)}"


def room(name: str) -> Place:
    return Place(f"chat/room/{_quoted(name)}", room=name)


def direct(one: str, other: str) -> Place:
    users = tuple(sorted({one, other}))
    return Place(f"chat/direct/{_quoted(users[0])}/{_quoted(users[-1])}", users=users)


def named(wire: str, user: str) -> Place:
    """The place of a name on the wire, as that user sees it. Raises WorkError."""
    kind, _, name = wire.partition("/")
    if kind not in ("room", "direct") or not 0 < len(name) <= _LONGEST_NAME:
        raise WorkError("bad_message", "stream: it is called room/NAME or direct/NAME")
    return room(name) if kind == "room" else direct(user, name)


def of_stream(stream: str) -> Place | None:
    """The place whose stream that is; None for streams that are none of chat's."""
    parts = stream.split("/")
    if parts[:2] == ["chat", "room"]:
        return room(unquote(parts[2]))
    if parts[:2] == ["chat", "direct"]:
        return direct(unquote(parts[2]), unquote(parts[3]))
    return None


def written(wire: str, event: Event) -> str:
    """A message as it goes over the wire; the log holds the rest of it as it is."""
    return f'{{"type":"message","stream":{json.dumps(wire)},"offset":{event.offset},{event.data[1:]}'


def of_user(name: str) -> str:
    """The stream on which a user's own connections are told what concerns them."""
    return f"chat/user/{_quoted(name)}"


def _quoted(name: str) -> str:
    return quote(name, safe="")


class Chat:
    """``frame`` makes of a text what goes over the wire."""

    def __init__(self, broker: Broker, marks: Marks, presence: Presence, frame: Callable[[str], bytes]) -> None:
        self.hubs = Fanout(broker, frame)
        self.broker, self.presence, self._marks = broker, presence, marks
        self._later: set[asyncio.Task[Any]] = set()
        self._leaving: dict[tuple[Place, str], asyncio.Task[None]] = {}

    async def post(
        self, place: Place, sender: str, text: str, attachments: list[dict[str, Any]], client_id: str | None
    ) -> int:
        """Says it; its offset, when it would survive a kill -9. The same ``client_id`` again is the same message.

        Who says something has read what was said before, where that is counted for them. Raises OSError: then it may
        have been said or not, and saying it again with the same ``client_id`` makes it sure.
        """
        for user in place.users:
            await self._marks.set(place.stream, user, 0)
        message = {"from": sender, "at": round(time.time() * 1000), "text": text, "attachments": attachments}
        id = None if client_id is None else f"{_quoted(sender)}/{client_id}"
        offset = await self.broker.append(place.stream, json.dumps(message, separators=(",", ":")), id=id)
        await self._marks.advance(place.stream, sender, offset)
        for user in place.users:
            await self.tell(user, {"stream": place.stream})
        return offset

    async def read(self, place: Place, reader: str, offset: int) -> None:
        """The reader has read up to there, on all their devices; nothing where nothing is counted for them."""
        if await self._marks.advance(place.stream, reader, offset):
            await self.tell(reader, {"stream": place.stream})

    async def follow(self, place: Place, user: str, offset: int) -> Mark:
        """From that offset on it is counted for the user, on all their devices."""
        mark = await self._marks.set(place.stream, user, offset)
        await self.tell(user, {"stream": place.stream})
        return mark

    def unfollow(self, place: Place, user: str) -> None:
        """It is no longer counted for the user: not at once, but whoever went away."""
        self._leaving[place, user] = self.later(self._unfollow(place, user))

    async def unfollowed(self, place: Place, user: str) -> None:
        """Waits for an ``unfollow`` that is not yet done: it would undo a ``follow`` that overtakes it."""
        if leaving := self._leaving.get((place, user)):
            await asyncio.wait({leaving})

    async def _unfollow(self, place: Place, user: str) -> None:
        try:
            await self._marks.remove(place.stream, user)
            await self.tell(user, {"stream": place.stream, "left": True})
        finally:
            if self._leaving.get((place, user)) is asyncio.current_task():
                del self._leaving[place, user]

    async def tell(self, user: str, event: dict[str, Any]) -> None:
        """Tells the user's connections; nobody when there are none."""
        if await self.presence.present(of_user(user)):
            await self.broker.append(of_user(user), json.dumps(event, separators=(",", ":")), durable=False)

    async def pass_on(self, stream: str, message: dict[str, Any]) -> None:
        """Tells everybody who listens to a passing stream."""
        await self.broker.append(stream, json.dumps(message, separators=(",", ":")), durable=False)

    async def enter(self, place: Place, user: str, connection: str) -> None:
        if await self.presence.enter(place.live, user, connection):
            await self.broker.expire(place.live, None)
            await self.pass_on(place.live, {"type": "presence", "room": place.room, "entered": user})

    async def leave(self, place: Place, user: str, connection: str) -> None:
        if await self.presence.leave(place.live, user, connection):
            await self.pass_on(place.live, {"type": "presence", "room": place.room, "left": user})
            await self.forget_soon(place.live)

    async def gone(self, user: str, connection: str) -> None:
        """A connection of the user has closed."""
        if await self.presence.leave(of_user(user), user, connection):
            await self.forget_soon(of_user(user))

    async def announce(self, sender: str, text: str) -> None:
        """Tells everybody who is connected."""
        at = round(time.time() * 1000)
        await self.pass_on(EVERYBODY, {"type": "announcement", "from": sender, "at": at, "text": text})

    async def forget_soon(self, passing: str) -> None:
        """The stream of passing things goes when nobody has listened for a while."""
        if not await self.presence.present(passing):
            await self.broker.expire(passing, _KEPT)

    async def history(self, place: Place, before: int | None, limit: int) -> list[Event]:
        """The ``limit`` messages before that offset, or the newest; oldest first."""
        head = (await self.broker.position(place.stream)).offset
        end = head if before is None else min(before - 1, head)
        events = await self.broker.read(place.stream, max(end - limit, 0), limit)
        return [event for event in events if event.offset <= end]

    async def page(self, place: Place, wire: str, before: int | None, limit: int, most: int) -> str:
        """A page of history as it goes over the wire. The newest of it, if its messages have more than ``most`` bytes;
        one in any case."""
        epoch = (await self.broker.position(place.stream)).epoch
        texts: list[str] = []
        first = size = 0
        for event in reversed(await self.history(place, before, limit)):
            text = written(wire, event)
            size += len(text)
            if texts and size > most:
                break
            texts.append(text)
            first = event.offset
        head = {"type": "history", "stream": wire, "epoch": epoch, "more": first > 1}
        return f'{json.dumps(head, separators=(",", ":"))[:-1]},"messages":[{",".join(reversed(texts))}]}}'

    async def marks(self, user: str) -> dict[Place, Mark]:
        """Every room and conversation of the user, and how far they have read it."""
        found = await self._marks.of_reader(user)
        return {place: mark for stream, mark in found.items() if (place := of_stream(stream))}

    def later(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Does it even when the connection that asked for it is gone."""
        task = asyncio.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._later.discard(task)
        if not task.cancelled():
            task.exception()  # the log cannot be written: presence is forgotten with the process, or by its TTL

    async def settle(self) -> None:
        """Waits for what was to be done later."""
        await asyncio.gather(*self._later, return_exceptions=True)
