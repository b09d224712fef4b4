"""A StreamFanout sends each event of one stream to every listener of this process, encoded once for all of them.

Listeners send without waiting, each from an outbox of its own, so a slow one costs the others nothing. A late one reads
what it missed from the broker, up to the fanout's offset, and then joins without a gap or a repeat.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from works.events.broker import Broker, Event, PositionLost

log = structlog.get_logger()

# Members that are sent an event before the loop has a turn: 100 sends take about 1 ms.
_AT_ONCE = 100
# Events that a late listener reads at a time.
_PAGE = 256


class Subscriber(Protocol):
    def push(self, text: str, frame: bytes) -> None:
        """Sends the text, for which the frame was made, or closes when its outbox is full. Never waits or raises."""

    def touched(self, stream: str) -> None:
        """There are new events on a stream of which this one is not a member."""

    def lost(self, stream: str) -> None:
        """The stream has begun again, or its events are gone: what this listener knows of it is no longer valid."""


class StreamFanout:
    """``offset`` is that of the last event that was sent, or is being sent.

    ``members`` are sent every event after the offset that stands beside them here. The other ``listeners`` are only
    notified that there are events (``touched``). When ``ended``, all of them have been notified (``lost``).
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

        Raises OSError when events cannot be read: the oldest may be dropped while a listener reads slowly.
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
                    await self._broadcast(event.offset, self._write(event))
                for listener in list(self.listeners):
                    if listener not in self.members:
                        listener.touched(self.stream)
        except (PositionLost, OSError):
            self._lose()
        except Exception:
            log.exception("events.fanout_failed", stream=self.stream)
            self._lose()

    def _lose(self) -> None:
        self.ended = True
        for listener in list(self.listeners):
            listener.lost(self.stream)

    async def _broadcast(self, offset: int, text: str) -> None:
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
    """A StreamFanout for each stream in use: it starts with its first listener and ends with its last.

    ``frame`` makes of a text what goes over the wire.
    """

    def __init__(self, broker: Broker, frame: Callable[[str], bytes]) -> None:
        self._broker, self._frame = broker, frame
        self._fanouts: dict[str, StreamFanout] = {}

    async def open(self, stream: str, write: Callable[[Event], str], listener: Subscriber) -> StreamFanout:
        """The stream's fanout, with that listener added; the caller has to call ``leave``. Raises OSError."""
        fanout = self._fanouts.get(stream)
        if fanout is None or fanout.ended:
            fanout = self._fanouts[stream] = StreamFanout(self._broker, stream, write, self._frame)
        fanout.listeners[listener] = None
        try:
            await asyncio.shield(fanout.started)
        except BaseException:
            self.leave(fanout, listener)
            raise
        return fanout

    def offset(self, stream: str) -> int:
        """Up to where the stream's listeners were sent its events; 0 when it has none."""
        fanout = self._fanouts.get(stream)
        return fanout.offset if fanout else 0

    def leave(self, fanout: StreamFanout, listener: Subscriber) -> None:
        fanout.members.pop(listener, None)
        fanout.listeners.pop(listener, None)
        if not fanout.listeners and self._fanouts.get(fanout.stream) is fanout:
            del self._fanouts[fanout.stream]
            fanout.stop()

    def unlisten(self, stream: str, listener: Subscriber) -> None:
        """Leaves the fanout of that stream, if there is one."""
        if fanout := self._fanouts.get(stream):
            self.leave(fanout, listener)
