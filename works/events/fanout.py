"""A Hub hands what comes on one stream to every listener of this process, encoded once however many there are.

Listeners send without waiting, each from an outbox of its own, so a slow one costs the others nothing. One that comes
late reads what it missed from the log, up to where the hub stands, and then joins in without a gap or a repeat.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from works.events.broker import Broker, Event, PositionLost

# Listeners sent to before the loop has a turn: 100 sends take about 1 ms.
_AT_ONCE = 100
# Events that a late listener reads at a time.
_PAGE = 256


class Subscriber(Protocol):
    def push(self, text: str, frame: bytes) -> None:
        """Sends the text, for which the frame was made, or closes when its outbox is full. Never waits or raises."""

    def touched(self, stream: str) -> None:
        """There is something new on a stream that this one only watches."""

    def lost(self, stream: str) -> None:
        """The stream has begun again, or its events are gone: what this listener knows of it is void."""


class StreamFanout:
    """``offset`` is that of the last event that was handed on, or is being so.

    ``members`` are sent every event after the offset up to which they have them; other ``listeners`` are only told
    that there are some. When the hub has ``ended``, they have been told that it is lost.
    """

    def __init__(
        self, broker: Broker, stream: str, write: Callable[[Event], str], frame: Callable[[str], bytes]
    ) -> None:
        self.stream = stream
        self.listeners: dict[Subscriber, None] = {}
        self.members: dict[Subscriber, int] = {}
        self.ended = False
        self.offset = 0
        self.epoch = ""
        self._broker, self._write, self._frame = broker, write, frame
        self._running: asyncio.Task[None] | None = None
        self.started = asyncio.create_task(self._start())

    async def _start(self) -> None:
        position = await self._broker.position(self.stream)
        self.offset, self.epoch = position.offset, position.epoch
        self._running = asyncio.create_task(self._run())

    async def replay(self, after: int) -> AsyncIterator[str]:
        """What a listener at ``after`` has missed. When it ends, nothing is awaited before the listener may join.

        Raises OSError when it cannot be had: the oldest of it may go while somebody reads slowly.
        """
        while after < self.offset:
            events = await self._broker.read(self.stream, after, min(_PAGE, self.offset - after))
            if not events or events[0].offset != after + 1:
                raise OSError(f"events after {after} are no longer kept")
            after = events[-1].offset
            for event in events:
                yield self._write(event)

    async def _run(self) -> None:
        try:
            async for events in self._broker.subscribe(self.stream, self.offset):
                for event in events:
                    self.offset = event.offset
                    await self._hand_on(event.offset, self._write(event))
                for listener in list(self.listeners):
                    if listener not in self.members:
                        listener.touched(self.stream)
        except (PositionLost, OSError):
            self.ended = True
            for listener in list(self.listeners):
                listener.lost(self.stream)

    async def _hand_on(self, offset: int, text: str) -> None:
        frame = self._frame(text)
        for number, member in enumerate(list(self.members), 1):
            if self.members.get(member, offset) < offset:
                self.members[member] = offset
                member.push(text, frame)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)

    def stop(self) -> None:
        self.started.cancel()
        if self._running:
            self._running.cancel()


class Fanout:
    """The hubs in use, by stream: each starts with its first listener and ends with its last.

    ``frame`` makes of a text what goes over the wire.
    """

    def __init__(self, broker: Broker, frame: Callable[[str], bytes]) -> None:
        self._broker, self._frame = broker, frame
        self._hubs: dict[str, StreamFanout] = {}

    async def open(self, stream: str, write: Callable[[Event], str], listener: Subscriber) -> StreamFanout:
        """The hub of the stream, with that listener, who is to leave it. Raises OSError."""
        hub = self._hubs.get(stream)
        if hub is None or hub.ended:
            hub = self._hubs[stream] = StreamFanout(self._broker, stream, write, self._frame)
        hub.listeners[listener] = None
        try:
            await asyncio.shield(hub.started)
        except BaseException:
            self.leave(hub, listener)
            raise
        return hub

    def offset(self, stream: str) -> int:
        """Up to where listeners were handed what is on that stream; 0 when there are none."""
        hub = self._hubs.get(stream)
        return hub.offset if hub else 0

    def leave(self, hub: StreamFanout, listener: Subscriber) -> None:
        hub.members.pop(listener, None)
        hub.listeners.pop(listener, None)
        if not hub.listeners and self._hubs.get(hub.stream) is hub:
            del self._hubs[hub.stream]
            hub.stop()

    def unlisten(self, stream: str, listener: Subscriber) -> None:
        """Leaves the hub of that stream, if there is one."""
        if hub := self._hubs.get(stream):
            self.leave(hub, listener)
