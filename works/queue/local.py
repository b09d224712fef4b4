"""The WorkQueue of one machine: as many workers as cores, each a coroutine that owns one decoder child.

Workers are coroutines, not threads: 580 us a task against 560 with threads and the same CPU, for no lock anywhere.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Protocol

import structlog

from works.errors import Busy, WorkError
from works.media import MediaStore
from works.metrics import Metrics
from works.perform import perform
from works.queue import ATTEMPTS
from works.queue.decoder import ChildSettings, Crashed, Decoder, work_errors_only
from works.queue.pending import Bounds, Entry, Pending
from works.task import Result, Task, Viewport

log = structlog.get_logger()

# A cancelled task that has run this long, in seconds, has its child killed; most slices end sooner by themselves.
_CANCEL_GRACE = 0.25
# retry_after is told between these, in milliseconds.
_RETRY_AFTER = (50, 30_000)

_ON_REQUEST = "cancelled on request"
_FORGOTTEN = "the connection did not come back in time; send it again"
_RESTARTING = "the server is restarting; send it again"


class Performer(Protocol):
    """Does one task at a time, and can be stopped in the middle by cancelling it."""

    def start(self) -> None: ...

    async def perform(self, task: Task) -> Result: ...

    def kill(self) -> None: ...


class InThread:
    """Works in a thread of the server itself: for trusted pictures and for debugging, since nothing can stop it."""

    def __init__(self, settings: ChildSettings, media: MediaStore) -> None:
        self._settings, self._media = settings, media
        self._thread = ThreadPoolExecutor(1, "sluice-perform")

    def start(self) -> None:
        pass

    async def perform(self, task: Task) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._perform, task)

    def _perform(self, task: Task) -> Result:
        with work_errors_only(self._settings.memory):
            return perform(task, self._media, self._settings.limits)

    def kill(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


class LocalQueue:
    def __init__(
        self,
        settings: ChildSettings,
        media: MediaStore,
        bounds: Bounds,
        metrics: Metrics,
        *,
        workers: int,
        isolation: str,
    ) -> None:
        self._media, self._metrics, self._timeout = media, metrics, settings.timeout
        self._pending = Pending(bounds)
        self._running: dict[tuple[str, str], Entry] = {}
        self._wanted = asyncio.Event()
        self._arrivals = 0
        self._work_seconds = 0.05  # running mean, for retry_after
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._forkserver = settings.forkserver() if isolation == "process" else None
        self._performers: list[Performer] = [
            Decoder(self._forkserver) if self._forkserver else InThread(settings, media) for _ in range(workers)
        ]
        metrics.watch(metrics.queue_depth, lambda: self._pending.count)
        metrics.watch(metrics.queue_bytes, lambda: self._pending.bytes)
        metrics.watch(metrics.running, lambda: len(self._running))

    async def start(self) -> None:
        for performer in self._performers:
            performer.start()
            self._tasks.append(asyncio.create_task(self._worker(performer)))

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        if self._closing:
            raise Busy("the server is restarting", 1000)
        if (task.session, task.id) in self._running:
            raise ValueError(f"task {task.id!r} is already running")
        loop = asyncio.get_running_loop()
        self._arrivals += 1
        entry = Entry(task, loop.create_future(), self._arrivals, loop.time())
        self._pending.add(entry, self._retry_after_ms())
        self._wanted.set()
        return entry.future

    def rerank(self, session: str, image: str, viewport: Viewport) -> None:
        self._pending.rerank(session, image, viewport)

    def cancel(self, session: str, *, id: str | None = None, image: str | None = None) -> int:
        waiting = self._pending.remove(session, id, image)
        return self._cancel(waiting + self._running_of(session, id, image), _ON_REQUEST, temporary=False)

    def forget(self, session: str) -> None:
        waiting = self._pending.forget(session)
        self._cancel(waiting + self._running_of(session, None, None), _FORGOTTEN, temporary=True)

    def ready(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def close(self, deadline: float) -> None:
        self._closing = True
        self._cancel(self._pending.clear(), _RESTARTING, temporary=True)
        running = [entry.future for entry in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=deadline)
        self._cancel(list(self._running.values()), _RESTARTING, temporary=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for performer in self._performers:
            performer.kill()
        if self._forkserver:
            await asyncio.to_thread(self._forkserver.close)

    def _cancel(self, entries: list[Entry], why: str, *, temporary: bool) -> int:
        for entry in entries:
            if entry.deadline and not entry.deadline.expired():
                entry.deadline.reschedule(entry.started + _CANCEL_GRACE)
            self._fail(entry, WorkError("cancelled", why, temporary=temporary))
        return len(entries)

    def _running_of(self, session: str, id: str | None, image: str | None) -> list[Entry]:
        return [
            entry
            for (owner, name), entry in self._running.items()
            if owner == session
            and not entry.future.done()
            and (name == id if id is not None else image is None or entry.task.image == image)
        ]

    def _retry_after_ms(self) -> int:
        """When the present backlog will be worked, by the running mean."""
        waiting = self._pending.count * self._work_seconds / len(self._performers)
        return int(min(max(waiting * 1000, _RETRY_AFTER[0]), _RETRY_AFTER[1]))

    async def _worker(self, performer: Performer) -> None:
        while True:
            entry = self._pending.take()
            if entry is None:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            key = entry.task.session, entry.task.id
            self._running[key] = entry
            try:
                await self._work(entry, performer)
            except Exception:
                log.exception("worker")
                self._fail(entry, WorkError("internal", "this slice failed; the server's log says why"))
            finally:
                del self._running[key]

    async def _work(self, entry: Entry, performer: Performer) -> None:
        loop = asyncio.get_running_loop()
        entry.started = loop.time()
        self._metrics.wait.observe(entry.started - entry.accepted)
        for _ in range(ATTEMPTS):
            try:
                async with asyncio.timeout_at(entry.started + self._timeout) as entry.deadline:
                    result = await performer.perform(entry.task)
            except Crashed:
                self._metrics.child_deaths.labels("crashed").inc()
                if entry.future.done():
                    return
                continue
            except TimeoutError:
                self._metrics.child_deaths.labels("cancelled" if entry.future.done() else "timeout").inc()
                return self._fail(entry, WorkError("timeout", f"not done within {self._timeout:g} s (slice_timeout)"))
            except WorkError as error:
                return self._fail(entry, error)
            return self._succeed(entry, result)
        self._fail(entry, WorkError("crashed", f"this picture ended its decoder {ATTEMPTS} times"))

    def _succeed(self, entry: Entry, result: Result) -> None:
        self._work_seconds += 0.05 * (result.work_ms / 1000 - self._work_seconds)
        self._metrics.work.observe(result.work_ms / 1000)
        if not entry.future.done():
            result = replace(result, queued_ms=(entry.started - entry.accepted) * 1000)
            self._metrics.slices.labels("done").inc()
            entry.future.set_result(result)
        elif result.name:
            self._media.delete(result.name)

    def _fail(self, entry: Entry, error: WorkError) -> None:
        if not entry.future.done():
            self._metrics.slices.labels(error.code).inc()
            entry.future.set_exception(error)
