"""The EventStore in Redis. All server processes that share it are one service."""

import asyncio
from dataclasses import dataclass

from works.background import BackgroundTasks
from works.events.presence import PRESENT
from works.events.redis.broker import RedisBroker
from works.events.redis.calls import RedisCalls
from works.events.redis.connection import CallConnection, ChannelConnection, database_of, make_pool
from works.events.redis.leases import RedisLeases
from works.events.redis.marks import RedisMarks
from works.events.redis.presence import RedisPresence
from works.events.redis.subscriptions import RedisSubscriptions

# Streams that are checked in one step of a sweep.
_PAGE = 500


@dataclass(frozen=True, slots=True)
class RedisTimeouts:
    """Timeouts, in seconds.

    ``answer``: for Redis to connect, and to answer a group of calls. Much more than it needs, and less than
    ``patience``. ``patience``: after which a caller gets an OSError. Long enough for a restart or failover of Redis,
    and short enough for a person who waits. ``present``: after which presence and subscriptions of a dead process are
    forgotten.
    """

    answer: float = 3.0
    patience: float = 5.0
    present: float = PRESENT


TIMEOUTS = RedisTimeouts()


class RedisEventStore:
    """``keep``: events that a stream retains; the oldest are dropped first.

    Raises ValueError for an invalid URL. Redis may be unavailable; then the first call raises OSError.
    """

    def __init__(
        self,
        url: str,
        keep: int,
        timeouts: RedisTimeouts = TIMEOUTS,
        background: BackgroundTasks | None = None,
    ) -> None:
        background = background or BackgroundTasks()
        pool = make_pool(url)
        prefix = f"sluice:{database_of(pool)}:"
        self._interval = timeouts.present / 3
        self._connection = CallConnection(pool, timeouts.answer)
        self._calls = RedisCalls(self._connection.execute, timeouts.patience, background)
        channels = ChannelConnection(pool, prefix, timeouts.answer)
        self._subscriptions = RedisSubscriptions(self._calls, channels, timeouts.present, background)
        self.broker = RedisBroker(self._calls, self._subscriptions, prefix, keep)
        self.marks = RedisMarks(self._calls)
        self.presence = RedisPresence(self._calls, timeouts.present)
        self.leases = RedisLeases(self._calls)
        self._refresher = background.start("event presence", self._refresh)

    @property
    def syncs(self) -> int:
        return 0

    async def sweep(self) -> None:
        after, seen = 0, _PAGE
        while seen == _PAGE:
            seen, stay = await self._calls.call("sweep", after, _PAGE)
            after += stay

    async def check(self) -> None:
        await self._calls.call("check", self._calls.new_id())

    async def close(self) -> None:
        self._refresher.cancel()
        self.presence.leave_all()
        await asyncio.gather(self._refresher, self._calls.close(), return_exceptions=True)
        await self._subscriptions.close()
        await self._connection.close()

    async def _refresh(self) -> None:
        """Renews this process's presence and subscriptions, so that they do not expire."""
        while True:
            await asyncio.sleep(self._interval)
            self._subscriptions.refresh()
            await self.presence.refresh()
