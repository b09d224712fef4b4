"""Tasks that run for as long as the server does: sweeps, the bans of other servers, the leases of jobs.

None of them ends in silence. One that ends before it is cancelled is logged, started again after a pause, and named by
`faults` (and so by /readyz) until it has run for a while.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds: the first pause before a new start, the longest, and how long a task must run to count as well again."""

    first: float = 0.1
    longest: float = 30.0
    well_after: float = 1.0


class BackgroundTasks:
    """`start` runs a task until `close`."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._tasks: list[asyncio.Task[None]] = []
        self._down: set[str] = set()

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
        """Runs `run()`, which is to end only by being cancelled, and runs it again whenever it ends.

        To be cancelled by `close`, or before that by the owner of the task.
        """
        task = asyncio.create_task(self._keep_running(name, run), name=name)
        self._tasks.append(task)
        return task

    def faults(self) -> list[str]:
        """The tasks that are down. Never an error's own words: they may hold an address with its password."""
        return [
            f"{name}: this background task has ended; it is started again, and the log says why"
            for name in sorted(self._down)
        ]

    async def close(self) -> None:
        """Cancels all of them and waits until they have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause = self._backoff.first
        while True:
            started = loop.time()
            well = loop.call_later(self._backoff.well_after, self._down.discard, name)
            try:
                await run()
                log.error("background.ended", task=name)
            except asyncio.CancelledError:
                if (current := asyncio.current_task()) and current.cancelling():
                    raise
                log.exception("background.failed", task=name)  # something that it waited for was cancelled
            except Exception:
                log.exception("background.failed", task=name)
            finally:
                well.cancel()
            self._down.add(name)
            if loop.time() - started > self._backoff.well_after:
                pause = self._backoff.first
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._backoff.longest)
