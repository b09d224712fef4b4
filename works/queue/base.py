"""The common part of every WorkQueue: accepting and ending tasks, and their metrics.

A subclass processes the tasks. It takes them from ``_pending``, keeps running ones in ``_running``, and ends each with
``_succeed`` or ``_fail``.
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

# Smallest and largest retry_after, in milliseconds.
_RETRY_AFTER = (50, 30_000)

_ON_REQUEST = "cancelled on request"
_FORGOTTEN = "the client did not reconnect in time; send the slice again"
RESTARTING = "server is restarting; send the slice again"


class BaseQueue:
    def __init__(self, results: ResultStore, bounds: QueueBounds, metrics: Metrics) -> None:
        self._results, self._metrics = results, metrics
        self._pending = PendingTasks(bounds)
        self._running: dict[tuple[str, str], Entry] = {}
        self._arrivals = 0
        self._work_seconds = 0.05  # running mean of seconds per task, for retry_after
        self._closing = False
        self._deletions: set[asyncio.Task[None]] = set()
        metrics.watch(metrics.queue_depth, lambda: self._pending.count)
        metrics.watch(metrics.queue_bytes, lambda: self._pending.bytes)
        metrics.watch(metrics.running, lambda: len(self._running))

    def at_once(self) -> int:
        """Returns how many tasks are processed at the same time, at least 1."""
        raise NotImplementedError

    def _refuse(self) -> None:
        """Raises Busy when no task can be accepted now."""

    def _wake(self) -> None:
        """Called after a task has been added to ``_pending``."""
        raise NotImplementedError

    def _stop(self, entry: Entry) -> None:
        """Stops a running task whose result is no longer needed."""
        raise NotImplementedError

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        """As in WorkQueue. Raises Busy or ValueError."""
        if self._closing:
            raise Busy("server is restarting; try again", 1000)
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
        """First part of ``close``: fails pending tasks, waits ``deadline`` seconds for running tasks, then fails them
        too.
        """
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
        """Estimates from the running mean when the backlog will be processed."""
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
            self._results.delete(name)
        except OSError as error:  # the sweep deletes the file when its time is over
            log.warning("queue.result_not_deleted", name=name, reason=error.strerror or str(error))

    async def _settle(self) -> None:
        """Last part of ``close``: waits until results of cancelled tasks are deleted."""
        await asyncio.gather(*self._deletions)

    def _fail(self, entry: Entry, error: WorkError) -> None:
        if not entry.future.done():
            self._metrics.slices.labels(error.code).inc()
            entry.future.set_exception(error)
