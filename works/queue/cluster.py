"""The WorkQueue of a cluster: its workers run on other machines.

Pending tasks stay in this process, in PendingTasks. The cluster gets only as many tasks as its threads can start soon,
so a moved viewport or a new session still changes the order. When the connection to a cluster is lost, its tasks become
pending again.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Protocol

import structlog

from works.background import BackgroundTasks
from works.errors import Busy, WorkError
from works.imaging.task import Result
from works.metrics import Metrics
from works.queue.attempts import ATTEMPTS, STOP_GRACE, DecoderCrashed
from works.queue.base import RESTARTING, BaseQueue
from works.queue.order import Entry
from works.queue.serialization import decode_outcome, encode_task
from works.queue.settings import ClusterSettings, QueueBounds
from works.storage.results import ResultStore

log = structlog.get_logger()

# Seconds between two requests for the number of threads in the cluster. A request is one small message.
_LOOK = 1.0
# Seconds between two attempts to connect: the first pause and the longest.
_BACKOFF = (0.1, 5.0)
# Seconds that ``close`` waits for the answers of stopped tasks.
_GOODBYE = 2.0
# retry_after in milliseconds while the cluster is unavailable.
_AWAY_RETRY = 1000


class ClusterLost(OSError):
    """The connection to the cluster is lost. Its tasks may or may not have been processed."""


class Cluster(Protocol):
    """A connection to a cluster. When ``lost`` is set, it cannot be used any more."""

    lost: asyncio.Event

    async def threads(self) -> int:
        """Returns how many slices the cluster can process at the same time. Raises ClusterLost."""

    async def work(self, key: str, header: bytes, payload: bytes, *, background: bool) -> tuple[bytes, bytes]:
        """Processes a task and returns the worker's answer.

        Raises:
            ClusterLost: the connection is lost.
            DecoderCrashed: the task has killed its worker several times.
        """

    async def stop(self, keys: Iterable[str]) -> None:
        """Makes the workers stop those of these tasks that are running. Raises ClusterLost."""

    async def close(self) -> None:
        """Closes the connection. Unanswered tasks are dropped."""


class ClusterQueue(BaseQueue):
    """``connect`` raises OSError while the cluster is unavailable. ``timeout``: seconds per slice."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Cluster]],
        settings: ClusterSettings,
        timeout: float,
        results: ResultStore,
        bounds: QueueBounds,
        metrics: Metrics,
        background: BackgroundTasks | None = None,
    ) -> None:
        super().__init__(results, bounds, metrics)
        self._background = background or BackgroundTasks()
        self._connect, self._settings = connect, settings
        # A worker has its own timeout. This one is for a worker that does not answer and is not reported as lost.
        self._longest = ATTEMPTS * timeout + settings.queue_patience
        self._cluster: Cluster | None = None
        self._threads = 0
        self._woken = False
        self._sent = 0
        self._keeper: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._stopping: set[str] = set()
        self._stopper: asyncio.Task[None] | None = None
        self._impatience: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self._impatient(True)
        self._keeper = self._background.start("cluster connection", self._keep)

    def ready(self) -> bool:
        return self._threads > 0 and not self._closing and self._reachable() is not None

    async def close(self, deadline: float) -> None:
        await self._finish(deadline)
        if self._impatience:
            self._impatience.cancel()
        if self._following:
            await asyncio.wait(self._following, timeout=_GOODBYE)
        tasks = [task for task in (self._keeper, self._stopper, *self._following) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._settle()

    def at_once(self) -> int:
        return max(self._threads, 1)

    def _refuse(self) -> None:
        if not self.ready():
            raise Busy("no worker is available; try again later", _AWAY_RETRY)

    def _reachable(self) -> Cluster | None:
        return self._cluster if self._cluster and not self._cluster.lost.is_set() else None

    # Connection

    async def _keep(self) -> None:
        """Keeps the connection open: connects again after every loss, and logs when it is lost or restored."""
        pause = _BACKOFF[0]
        while True:
            try:
                self._cluster = await self._connect()
            except Exception as error:  # any error: the next attempt may succeed
                if pause == _BACKOFF[0]:
                    unknown = not isinstance(error, (OSError, ValueError))
                    log.warning("cluster.unavailable", queue=self._settings.queue, reason=str(error), exc_info=unknown)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, _BACKOFF[1])
                continue
            pause = _BACKOFF[0]
            try:
                await self._attend(self._cluster)
            except Exception as error:
                unknown = not isinstance(error, ClusterLost)
                log.warning("cluster.lost", queue=self._settings.queue, reason=str(error), exc_info=unknown)
            finally:
                cluster, self._cluster = self._cluster, None
                self._resize(0)
                cluster.lost.set()
                await cluster.close()

    async def _attend(self, cluster: Cluster) -> None:
        while not cluster.lost.is_set():
            self._resize(await cluster.threads())
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK):
                    await cluster.lost.wait()
        raise ClusterLost("the connection broke")

    def _resize(self, threads: int) -> None:
        if threads != self._threads:
            log.info("cluster.threads", threads=threads)
        self._threads = threads
        self._impatient(not threads)
        self._wake()

    def _impatient(self, away: bool) -> None:
        """Starts or stops the timer after which accepted tasks fail while the cluster is unavailable."""
        if away and not self._impatience:
            self._impatience = asyncio.get_running_loop().call_later(self._settings.queue_patience, self._give_up)
        elif not away and self._impatience:
            self._impatience.cancel()
            self._impatience = None

    def _give_up(self) -> None:
        self._impatience = None
        why = f"no worker was available for {self._settings.queue_patience:g} s (queue_patience); send the slice again"
        self._cancel(self._pending.clear() + list(self._running.values()), why, temporary=True)

    # Tasks

    def _wake(self) -> None:
        """Schedules ``_feed`` for the next turn of the loop, so that slices that arrive together are ordered first."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._feed)

    def _feed(self) -> None:
        """Sends the best tasks to the cluster until its window is full."""
        self._woken = False
        window = self._threads + math.ceil(self._threads * self._settings.queue_ahead)
        while (cluster := self._reachable()) and self._threads and len(self._running) < window:
            entry = self._pending.take()
            if entry is None:
                return
            self._running[entry.task.session, entry.task.id] = entry
            entry.started = asyncio.get_running_loop().time()
            self._sent += 1
            # Each attempt has a key of its own, so that stopping an earlier attempt cannot stop this one.
            entry.key = str(self._sent)
            task = asyncio.create_task(self._follow(cluster, entry))
            self._following.add(task)
            task.add_done_callback(self._following.discard)

    async def _follow(self, cluster: Cluster, entry: Entry) -> None:
        """Waits for the cluster's answer to one task. This includes cancelled tasks, because their stored results must
        be deleted.
        """
        end: Result | WorkError | None = None
        try:
            end = await self._end(cluster, entry)
        except Exception:
            log.exception("cluster.slice_failed")
            end = WorkError("internal", "this slice failed because of a fault in the server; its log has the reason")
        finally:
            del self._running[entry.task.session, entry.task.id]
            self._stopping.discard(entry.key)
            if isinstance(end, Result):
                self._done(entry, end)
            elif end is None or (end.code == "cancelled" and not entry.future.done()):
                self._again(entry)
            else:
                self._fail(entry, end)
        self._wake()

    async def _end(self, cluster: Cluster, entry: Entry) -> Result | WorkError | None:
        """Returns how the task ended, or None when that is unknown because the connection was lost."""
        task = entry.task
        try:
            async with asyncio.timeout(self._longest):
                return decode_outcome(
                    *await cluster.work(entry.key, encode_task(task), bytes(task.payload), background=task.background)
                )
        except TimeoutError:
            return WorkError(
                "timeout",
                f"no answer from the workers within {self._longest:g} s; send the slice again",
                temporary=True,
            )
        except ClusterLost:
            return None
        except DecoderCrashed:
            return WorkError("crashed", f"this picture crashed its worker {ATTEMPTS} times; it is probably damaged")

    def _done(self, entry: Entry, result: Result) -> None:
        now = asyncio.get_running_loop().time()
        # The time that the task waited in the cluster also counts as waiting.
        entry.started = max(entry.started, now - result.work_ms / 1000)
        self._metrics.wait.observe(entry.started - entry.accepted)
        self._succeed(entry, result)

    def _again(self, entry: Entry) -> None:
        entry.key = ""
        if entry.future.done():
            return
        if self._closing:
            self._fail(entry, WorkError("cancelled", RESTARTING, temporary=True))
        else:
            self._pending.give_back(entry)

    def _stop(self, entry: Entry) -> None:
        if entry.key and not entry.future.done():
            self._stopping.add(entry.key)
            if not self._stopper or self._stopper.done():
                self._stopper = asyncio.create_task(self._stop_all())

    async def _stop_all(self) -> None:
        """Stops tasks until they have ended. One request is not enough, because a task may start after it."""
        while self._stopping and (cluster := self._reachable()):
            try:
                await cluster.stop(tuple(self._stopping))
            except ClusterLost:
                pass
            except Exception:
                log.exception("cluster.stop_failed")  # the loop tries again
            await asyncio.sleep(STOP_GRACE)
