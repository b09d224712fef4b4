"""A StreamFanout sends each event of one stream to every listener in this process. An event is encoded once for all of
them.

Listeners send without waiting, each from its own outbox, so a slow listener does not delay the others. A late listener
reads missed events from the broker, up to the offset of the fanout. Then it joins without a gap or a repetition.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import structlog

from works.events.broker import Broker, Event, PositionLost

log = structlog.get_logger()

# Members that get an event before other code of the loop may run. 100 sends take about 1 ms.
_AT_ONCE = 100
# Events that a late listener reads at a time.
_PAGE = 256


class Subscriber(Protocol):
    def push(self, text: str, frame: bytes) -> None:
        """Sends the text as the encoded frame, or closes the connection when its outbox is full. Never
        waits or raises.
        """

    def touched(self, stream: str) -> None:
        """Called for a listener that is not a member, when the stream has new events."""

    def lost(self, stream: str) -> None:
        """Called when the stream was started again or has lost events. The listener's position is then invalid."""


class StreamFanout:
    """The fanout of one stream. ``offset`` is that of the last event that was sent or is being sent.

    ``members`` maps each member to the last offset that it was sent. Other ``listeners`` only get notifications
    (``touched``). When ``ended`` is set, all listeners have been notified (``lost``).
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
        """Yields the events that a listener at ``after`` has missed. No await between its end and the listener's join
        is allowed.

        Raises OSError when events cannot be read, for example because they were dropped while a slow listener was
        reading.
        """
        while after < self.offset:
            events = await self._broker.read(self.stream, after, min(_PAGE, self.offset - after))
            if not events or events[0].offset != after + 1:
                raise OSError(f"events after {after} are no longer retained")
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
    """The StreamFanouts of all streams in use. One starts with its first listener and ends with its last.

    ``frame`` encodes a text as a WebSocket frame.
    """

    def __init__(self, broker: Broker, frame: Callable[[str], bytes]) -> None:
        self._broker, self._frame = broker, frame
        self._fanouts: dict[str, StreamFanout] = {}

    async def open(self, stream: str, write: Callable[[Event], str], listener: Subscriber) -> StreamFanout:
        """Adds the listener to the stream's fanout and returns the fanout. The caller must call ``leave``. Raises
        OSError.
        """
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
        """Returns the offset up to which listeners of the stream were sent its events, or 0 when it has no
        listeners.
        """
        fanout = self._fanouts.get(stream)
        return fanout.offset if fanout else 0

    def leave(self, fanout: StreamFanout, listener: Subscriber) -> None:
        fanout.members.pop(listener, None)
        fanout.listeners.pop(listener, None)
        if not fanout.listeners and self._fanouts.get(fanout.stream) is fanout:
            del self._fanouts[fanout.stream]
            fanout.stop()

    def unlisten(self, stream: str, listener: Subscriber) -> None:
        """Removes the listener from the stream's fanout, if there is one."""
        if fanout := self._fanouts.get(stream):
            self.leave(fanout, listener)
