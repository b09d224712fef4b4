"""The services of one server: everything that handlers use. They are checked by /readyz, swept, drained and closed in
order.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from works.background import BackgroundTasks
from works.bans import Bans
from works.chat.messages import Chat
from works.events.store import EventStore
from works.jobs.service import JobService
from works.metrics import Metrics
from works.queue import WorkQueue
from works.sessions import Sessions
from works.storage.address import StoreThreads
from works.storage.results import ResultStore
from works.storage.settings import ResultSettings
from works.uploads import Uploads
from works.video.service import VideoService
from works.video.snapshots import Snapshots

Check = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ServiceIntervals:
    """Seconds between two sweeps. Object stores are swept less often, because they charge for each request of 1,000
    names.
    """

    sweep: float = 30.0
    sweep_bucket: float = 300.0
    check: float = 6.0
    """Seconds after which a check counts as failed."""
    last_events: float = 5.0
    """Flush timeout at shutdown, in seconds. Without it, an unavailable event store would keep the server from
    stopping.
    """


@dataclass(slots=True, kw_only=True)
class Services:
    queue: WorkQueue
    events: EventStore
    results: ResultStore
    result_settings: ResultSettings
    uploads: Uploads
    sessions: Sessions
    bans: Bans
    chat: Chat
    jobs: JobService
    video: VideoService
    snapshots: Snapshots
    metrics: Metrics
    threads: StoreThreads
    """Threads that wait for ``results``."""
    background: BackgroundTasks
    intervals: ServiceIntervals = ServiceIntervals()
    _checks: "dict[str, asyncio.Future[None]]" = field(default_factory=dict)

    def start_sweeps(self) -> None:
        """Starts the sweeps in the background. A sweep that fails is repeated at its next time, and /readyz
        reports it.
        """
        places = {
            "results": (self.results.place, self._sweep_results),
            "uploads": (self.uploads.place, self.uploads.sweep),
        }
        self.background.start("event sweep", partial(_every, self.intervals.sweep, self.events.sweep))
        for name, (place, sweep) in places.items():
            seconds = self.intervals.sweep if isinstance(place, Path) else self.intervals.sweep_bucket
            self.background.start(f"{name} sweep", partial(_every, seconds, sweep))

    async def _sweep_results(self) -> None:
        settings = self.result_settings
        if isinstance(self.results.place, Path) or settings.store_lifetime == "sweep":
            await self.threads.run(self.results.sweep, settings.media_ttl, settings.media_bytes)

    async def faults(self) -> list[str]:
        """Returns the reasons why the server cannot work now, or an empty list."""
        faults = [] if self.queue.ready() else ["queue: no worker is available"]
        results = partial(self.threads.run, self.results.check)
        checks: dict[str, Check] = {"events": self.events.check, "media": results, "uploads": self.uploads.check}
        found = await asyncio.gather(*(self._fault(name, check) for name, check in checks.items()))
        faults += [f"{name}: {fault}" for name, fault in zip(checks, found, strict=True) if fault]
        return faults + self.background.faults()

    async def _fault(self, name: str, check: Check) -> str:
        """Returns the fault that a check finds, or an empty string. A check that hangs is not started a second time."""
        running = self._checks.get(name)
        if running is None:
            running = self._checks[name] = asyncio.ensure_future(check())
            running.add_done_callback(lambda _: self._checks.pop(name))
        await asyncio.wait({running}, timeout=self.intervals.check)
        if not running.done():
            return f"it has not answered within {self.intervals.check:g} s"
        try:
            await running
        except OSError as error:
            return str(error.strerror or error)
        return ""

    async def drain(self, deadline: float) -> None:
        """Accepts no more work, finishes running work within ``deadline`` seconds, and fails the rest as temporary."""
        await self.video.close()
        # Jobs are first, so that they are stopped before their slices fail.
        await asyncio.gather(self.jobs.runner.drain(deadline), self.queue.close(deadline))
        await _within(self.intervals.last_events, self.sessions.settle())

    async def close(self) -> None:
        """Writes pending events and closes the event store. To be called when no connection reads events any more."""
        await _within(self.intervals.last_events, self.chat.settle())
        await self.events.close()
        await self.background.close()
        self.threads.close()
        self.uploads.threads.close()


async def _within(seconds: float, work: Awaitable[None]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work


async def _every(seconds: float, sweep: Check) -> None:
    while True:
        with suppress(OSError):
            await sweep()
        await asyncio.sleep(seconds)
