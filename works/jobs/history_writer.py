"""Writes the events of a job to its stream, collected into groups that are limited in bytes and in number.

A history has at most ``job_events`` groups, so its stream never drops the first. At first there are up to ten groups a
second, later fewer. Events of a busy job then wait longer and share a group.
"""

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import structlog

from works.events.broker import Broker, Fenced
from works.jobs.history import END, dumps, group
from works.jobs.settings import JobSettings

log = structlog.get_logger()

# Shortest time between groups, in seconds.
_INTERVAL = 0.1
# Characters from which a group is written as soon as possible, and from which the job has to wait.
_FULL, _MOST = 64 << 10, 256 << 10
# How many times more groups there may be than the first, quick ones. So a history lasts for a month of continuous
# events.
_SPREAD = 11
# Groups that are reserved for the end, and for requests to the job.
_SPARE = 50
# Seconds before a failed write is repeated.
_RETRY_DELAY = 0.5


class HistoryWriter:
    """``fenced`` is called when another process has ended the history, or when it cannot be written any more."""

    def __init__(self, log: Broker, stream: str, settings: JobSettings, fenced: Callable[[], None]) -> None:
        self._log, self._stream, self._fenced = log, stream, fenced
        self._max_groups = max(settings.job_events - _SPARE, 1)
        self._loop = asyncio.get_running_loop()
        self._began = self._last = self._loop.time()
        self._pending: dict[object, str] = {}
        self._size = self._groups = 0
        self._urgent = False
        self._keys = count()
        self._wake, self._full, self._has_space = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._has_space.set()
        self._writing = asyncio.Lock()
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._on_end)

    @property
    def spent(self) -> bool:
        """Whether nothing more is written before the end."""
        return self._groups >= self._max_groups

    async def add(self, event: dict[str, Any], key: object = None, *, urgent: bool = False) -> None:
        """Queues an event. An ``urgent`` event is written immediately. A ``key`` replaces the queued event with the
        same key.

        Waits while too much is queued. Raises ValueError or TypeError for values that are not JSON.
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
            self._has_space.clear()
        await self._has_space.wait()
        await asyncio.sleep(0)  # a job that only adds events must not block the loop

    async def end(self, state: str, event: dict[str, Any]) -> None:
        """Writes queued events and the last event, unless there is one already. Retries until they are written."""
        self._has_space.set()
        async with self._writing:  # not while a group is being written
            self._running.cancel()
        await self.flush()
        await self._append(group([dumps({"type": state, **event})], ended=state), END)

    def stop(self) -> None:
        """Writes nothing more."""
        self._running.cancel()
        self._pending.clear()
        self._has_space.set()

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        """Stops the job after an unexpected error, because its events are no longer written."""
        if not task.cancelled() and (error := task.exception()):
            log.error("job.history_failed", stream=self._stream, exc_info=error)
            self._fenced()

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
        """Waits until the next group may be written. A full group may be written immediately, because bytes have
        another limit.
        """
        if self.spent and not (self._urgent and self._groups < self._max_groups + _SPARE // 2):
            return math.inf
        if self._full.is_set():
            return self._last + _INTERVAL
        quick = self._max_groups / _SPREAD
        seconds = self._groups * _INTERVAL
        if self._groups > quick:
            seconds = quick * _INTERVAL * math.exp(self._groups / quick - 1)
        return max(self._began + seconds, self._last + _INTERVAL)

    async def flush(self) -> None:
        """Writes queued events."""
        async with self._writing:
            texts, self._pending, self._size = list(self._pending.values()), {}, 0
            self._full.clear()
            self._urgent = False
            if texts:
                self._groups += 1
                await self._append(group(texts), f"group-{self._groups}", (END,))
            self._last = self._loop.time()
            self._has_space.set()

    async def _append(self, data: str, id: str, unless: tuple[str, ...] = ()) -> None:
        """Appends a group and retries until it is written. The id prevents a second copy when only the confirmation was
        lost.
        """
        while True:
            try:
                await self._log.append(self._stream, data, id=id, unless=unless)
                return
            except OSError:
                await asyncio.sleep(_RETRY_DELAY)
            except Fenced:
                return self._fenced()
