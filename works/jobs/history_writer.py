"""What a job tells, on its way to the log: collected, written in groups, bounded in bytes and in number.

However long a job tells, its story has ``job_events`` groups at most, so the log never lets go of its beginning: up to
ten a second at first, and ever fewer as it goes on. What a busy job tells then waits longer for company.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from works.events.broker import Broker, Fenced
from works.jobs.history import END, dumps, group
from works.jobs.settings import JobSettings

# Seconds between groups at the least.
_EVERY = 0.1
# Characters from which a group is full and is written as soon as it may be, and at which a job has to wait.
_FULL, _MOST = 64 << 10, 256 << 10
# A story of this many times its first, quick groups lasts for a month of telling without a pause.
_SPREAD = 11
# Groups of the bound that are for the end, and for what others say.
_SPARE = 50
# Seconds until a log that could not be written is tried again.
_AGAIN = 0.5


class HistoryWriter:
    """``fenced`` is called when the story has ended without us."""

    def __init__(self, log: Broker, stream: str, settings: JobSettings, fenced: Callable[[], None]) -> None:
        self._log, self._stream, self._fenced = log, stream, fenced
        self._most = max(settings.job_events - _SPARE, 1)
        self._loop = asyncio.get_running_loop()
        self._began = self._last = self._loop.time()
        self._pending: dict[object, str] = {}
        self._size = self._written = 0
        self._urgent = False
        self._keys = count()
        self._wake, self._full, self._room = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()
        self._writing = asyncio.Lock()
        self._running = asyncio.create_task(self._run())

    @property
    def spent(self) -> bool:
        """Whether nothing more is written before the end."""
        return self._written >= self._most

    async def tell(self, event: dict[str, Any], key: object = None, *, urgent: bool = False) -> None:
        """Tells it soon, and at once when it is ``urgent``; with a ``key``, instead of what waits under the same.

        Waits while too much waits. Raises ValueError or TypeError for what is no JSON.
        """
        text = dumps(event)
        if key is None:
            key = event["type"] if self.spent else next(self._keys)
        self._size += len(text) - len(self._pending.pop(key, ""))
        self._pending[key] = text
        self._wake.set()
        self._urgent |= urgent
        if self._size >= _FULL or urgent:
            self._full.set()
        if self._size >= _MOST and not self.spent:
            self._room.clear()
        await self._room.wait()
        await asyncio.sleep(0)  # a job that does nothing but tell lets others have their turn

    async def end(self, state: str, event: dict[str, Any]) -> None:
        """Writes what waits, and the last event; waits for a log that is away. Another's last event may be there."""
        self._room.set()
        async with self._writing:  # not in the midst of a group
            self._running.cancel()
        await self.flush()
        await self._append(group([dumps({"type": state, **event})], ended=state), END)

    def stop(self) -> None:
        """Writes nothing more."""
        self._running.cancel()
        self._pending.clear()
        self._room.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            while (wait := self._due() - self._loop.time()) > 0:
                if self._full.is_set():
                    await asyncio.sleep(wait)
                    continue
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._full.wait()
            self._wake.clear()
            await self.flush()

    def _due(self) -> float:
        """When the next group may be written; a full one may at once, as its bytes are bounded elsewhere."""
        if self.spent and not (self._urgent and self._written < self._most + _SPARE // 2):
            return math.inf
        if self._full.is_set():
            return self._last + _EVERY
        quick = self._most / _SPREAD
        seconds = self._written * _EVERY
        if self._written > quick:
            seconds = quick * _EVERY * math.exp(self._written / quick - 1)
        return max(self._began + seconds, self._last + _EVERY)

    async def flush(self) -> None:
        """Writes what waits."""
        async with self._writing:
            texts, self._pending, self._size = list(self._pending.values()), {}, 0
            self._full.clear()
            self._urgent = False
            if texts:
                self._written += 1
                await self._append(group(texts), f"group-{self._written}", (END,))
            self._last = self._loop.time()
            self._room.set()

    async def _append(self, data: str, id: str, unless: tuple[str, ...] = ()) -> None:
        """Until it is there: with its id, what was written without our hearing of it is not written twice."""
        while True:
            try:
                await self._log.append(self._stream, data, id=id, unless=unless)
                return
            except OSError:
                await asyncio.sleep(_AGAIN)
            except Fenced:
                return self._fenced()
