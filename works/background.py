"""Background tasks that run as long as the server: sweeps, bans of other servers, leases of jobs.

No task ends silently. A task that ends before it is cancelled is logged and started again after a pause. `faults`, and
so /readyz, names it until it has run for a while.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Backoff:
    """Seconds: the first pause before a restart, the longest pause, and how long a task must run to count as healthy
    again.
    """

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
        """Runs `run()`, which must end only by being cancelled, and runs it again whenever it ends.

        `close` cancels the returned task. Its owner may cancel it before that.
        """
        task = asyncio.create_task(self._keep_running(name, run), name=name)
        self._tasks.append(task)
        return task

    def faults(self) -> list[str]:
        """Describes the tasks that are down. It never quotes an error, which may contain an address with
        its password.
        """
        return [
            f"{name}: this background task has ended; it is started again, and the log says why"
            for name in sorted(self._down)
        ]

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
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
                log.exception("background.failed", task=name)  # another task that it was waiting for was cancelled
            except Exception:
                log.exception("background.failed", task=name)
            finally:
                well.cancel()
            self._down.add(name)
            if loop.time() - started > self._backoff.well_after:
                pause = self._backoff.first
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, self._backoff.longest)
