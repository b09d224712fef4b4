"""The Broker in Redis. Events are as durable as Redis is configured to be, also on a volatile stream."""

from collections.abc import AsyncIterator, Sequence

from works.events.broker import Event, Fenced, Position
from works.events.redis.calls import RedisCalls
from works.events.redis.scripts import begin_arguments
from works.events.redis.subscriptions import RedisSubscriptions, events_of

# Maximum number of bytes of events that wait while Redis is unavailable, and the overhead that is counted for each
# event.
_MOST_UNWRITTEN, _OVERHEAD = 64 << 20, 1000


class RedisBroker:
    """``keep``: events that a stream retains; the oldest are dropped first. ``prefix``: of the names of the streams'
    channels.
    """

    def __init__(self, calls: RedisCalls, subscriptions: RedisSubscriptions, prefix: str, keep: int) -> None:
        self._calls, self._subscriptions, self._prefix, self._keep = calls, subscriptions, prefix, keep
        self._unwritten = 0

    async def position(self, stream: str) -> Position:
        epoch, head = await self._calls.call("position", *begin_arguments(stream), "", 0, done="read")
        return Position(epoch, head)

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        """As in Broker. Raises Fenced, OSError or ValueError."""
        size = len(data) + _OVERHEAD
        if self._unwritten + size > _MOST_UNWRITTEN:
            raise OSError("events cannot be written: the buffer for unwritten events is full")
        self._unwritten += size
        try:
            offset = await self._calls.call(
                "append",
                *begin_arguments(stream),
                data,
                self._calls.new_id() if id is None else f"={id}",
                int(durable),
                self._keep,
                self._prefix + stream,
                *(f"={each}" for each in unless),
                forever=not durable,
            )
        finally:
            self._unwritten -= size
        if offset < 0:
            raise ValueError("id and unless need a durable stream")
        if not offset:
            raise Fenced(f"{stream} has one of {', '.join(unless)}")
        return int(offset)

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        found, head, next_event = await self._read(stream, after, 1)
        if found != epoch or not 0 <= after <= head:
            return False
        return after == head or [event.offset for event in next_event] == [after + 1]

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        return (await self._read(stream, after, limit))[2]

    def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        return self._subscriptions.subscribe(stream, after)

    async def expire(self, stream: str, seconds: float | None) -> None:
        await self._calls.call("expire", *begin_arguments(stream), "" if seconds is None else seconds)

    async def _read(self, stream: str, after: int, limit: int) -> tuple[str, int, list[Event]]:
        """Returns the epoch of the stream, its last offset and the events."""
        first = min(max(after, 0) + 1, 2**63)  # Redis accepts no larger number
        answer = await self._calls.call("read", stream, f"{first}-0", limit, done="read")
        return answer[0], answer[1], events_of(answer)
