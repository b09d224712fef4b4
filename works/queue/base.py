"""What every WorkQueue has in common: what is accepted, how it ends, and the figures of both.

Who does the work is its subclass's affair: it takes from ``_pending``, keeps in ``_running`` what it has taken, and
ends each with ``_succeed`` or ``_fail``.
"""

import asyncio
from dataclasses import replace

import structlog

from works.errors import Busy, WorkError
from works.imaging.task import Result, Task
from works.metrics import Metrics
from works.queue.order import Entry, PendingTasks, Viewport
from works.queue.settings import QueueBounds
from works.storage.results import ResultStore

log = structlog.get_logger()

# retry_after is told between these, in milliseconds.
_RETRY_AFTER = (50, 30_000)

_ON_REQUEST = "cancelled on request"
_FORGOTTEN = "the connection did not come back in time; send it again"
RESTARTING = "the server is restarting; send it again"


class BaseQueue:
    def __init__(self, media: ResultStore, bounds: QueueBounds, metrics: Metrics) -> None:
        self._media, self._metrics = media, metrics
        self._pending = PendingTasks(bounds)
        self._running: dict[tuple[str, str], Entry] = {}
        self._arrivals = 0
        self._work_seconds = 0.05  # running mean, for retry_after
        self._closing = False
        self._deletions: set[asyncio.Task[None]] = set()
        metrics.watch(metrics.queue_depth, lambda: self._pending.count)
        metrics.watch(metrics.queue_bytes, lambda: self._pending.bytes)
        metrics.watch(metrics.running, lambda: len(self._running))

    def at_once(self) -> int:
        """How many tasks are worked at once, at least 1."""
        raise NotImplementedError

    def _refuse(self) -> None:
        """Raises Busy when no task at all can be accepted now."""

    def _wake(self) -> None:
        """Something has come to wait."""
        raise NotImplementedError

    def _stop(self, entry: Entry) -> None:
        """Nobody wants what comes of this running task any more."""
        raise NotImplementedError

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        if self._closing:
            raise Busy("the server is restarting", 1000)
        self._refuse()
        if (task.session, task.id) in self._running:
            raise ValueError(f"task {task.id!r} is already running")
        loop = asyncio.get_running_loop()
        self._arrivals += 1
        entry = Entry(task, loop.create_future(), self._arrivals, loop.time())
        self._pending.add(entry, self._retry_after_ms())
        self._wake()
        return entry.future

    def rerank(self, session: str, image: str, viewport: Viewport) -> None:
        self._pending.rerank(session, image, viewport)

    def cancel(self, session: str, *, id: str | None = None, image: str | None = None) -> int:
        waiting = self._pending.remove(session, id, image)
        return self._cancel(waiting + self._running_of(session, id, image), _ON_REQUEST, temporary=False)

    def forget(self, session: str) -> None:
        waiting = self._pending.forget(session)
        self._cancel(waiting + self._running_of(session, None, None), _FORGOTTEN, temporary=True)

    async def _finish(self, deadline: float) -> None:
        """The beginning of ``close``: what waits fails, what runs has so many seconds, then fails too."""
        self._closing = True
        self._cancel(self._pending.clear(), RESTARTING, temporary=True)
        running = [entry.future for entry in self._running.values()]
        if running:
            await asyncio.wait(running, timeout=deadline)
        self._cancel(list(self._running.values()), RESTARTING, temporary=True)

    def _cancel(self, entries: list[Entry], why: str, *, temporary: bool) -> int:
        for entry in entries:
            self._stop(entry)
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
        waiting = self._pending.count * self._work_seconds / self.at_once()
        return int(min(max(waiting * 1000, _RETRY_AFTER[0]), _RETRY_AFTER[1]))

    def _succeed(self, entry: Entry, result: Result) -> None:
        self._work_seconds += 0.05 * (result.work_ms / 1000 - self._work_seconds)
        self._metrics.work.observe(result.work_ms / 1000)
        if not entry.future.done():
            result = replace(result, queued_ms=(entry.started - entry.accepted) * 1000)
            self._metrics.slices.labels("done").inc()
            entry.future.set_result(result)
        elif result.name:
            deletion = asyncio.create_task(asyncio.to_thread(self._delete, result.name))
            self._deletions.add(deletion)
            deletion.add_done_callback(self._deletions.discard)

    def _delete(self, name: str) -> None:
        try:
            self._media.delete(name)
        except OSError as error:  # it goes when its time is over
            log.warning("queue.result_not_deleted", name=name, reason=error.strerror or str(error))

    async def _settle(self) -> None:
        """The end of ``close``: what nobody wanted is deleted."""
        await asyncio.gather(*self._deletions)

    def _fail(self, entry: Entry, error: WorkError) -> None:
        if not entry.future.done():
            self._metrics.slices.labels(error.code).inc()
            entry.future.set_exception(error)
