"""The WorkQueue of one machine, with one worker per core.

With `--isolation process` a worker is a coroutine with its own decoder child. It needs no locks, and costs 568 us per
task compared to 560 us with threads. With `--isolation thread` a worker is a daemon thread that runs OpenCV in the
server. That is for trusted pictures and debugging only, because a thread cannot be stopped.
"""

import asyncio
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

import structlog

from works.background import BackgroundTasks
from works.errors import WorkError
from works.imaging.pipeline import process
from works.imaging.task import Result
from works.metrics import Metrics
from works.processes.child import only_work_errors
from works.queue.attempts import Attempts
from works.queue.base import BaseQueue
from works.queue.decoder_child import ChildConfig
from works.queue.order import Entry
from works.queue.process_decoder import ProcessDecoder
from works.queue.settings import DecoderSettings, QueueBounds
from works.storage.results import ResultStore

log = structlog.get_logger()


class ProcessPool(BaseQueue):
    """A pool of decoder children. Each worker sends the best task to its own child."""

    def __init__(
        self,
        settings: DecoderSettings,
        config: ChildConfig,
        results: ResultStore,
        bounds: QueueBounds,
        metrics: Metrics,
        background: BackgroundTasks | None = None,
    ) -> None:
        super().__init__(results, bounds, metrics)
        self._background = background or BackgroundTasks()
        self._timeout = config.timeout
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._forkserver = config.forkserver()
        self._decoders = [ProcessDecoder(self._forkserver) for _ in range(settings.decoders)]

    async def start(self) -> None:
        for number, decoder in enumerate(self._decoders):
            decoder.start()
            self._tasks.append(self._background.start(f"decoder {number}", partial(self._worker, decoder)))

    def ready(self) -> bool:
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    async def close(self, deadline: float) -> None:
        await self._finish(deadline)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._settle()
        for decoder in self._decoders:
            decoder.kill()
        await asyncio.to_thread(self._forkserver.close)

    def at_once(self) -> int:
        return len(self._decoders)

    def _wake(self) -> None:
        self._wanted.set()

    def _stop(self, entry: Entry) -> None:
        if entry.attempts:
            entry.attempts.stop()

    async def _worker(self, decoder: ProcessDecoder) -> None:
        while True:
            entry = self._pending.take()
            if entry is None:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            key = entry.task.session, entry.task.id
            self._running[key] = entry
            try:
                await self._work(entry, decoder)
            except Exception:
                log.exception("queue.slice_failed")
                self._fail(
                    entry,
                    WorkError("internal", "this slice failed because of a fault in the server; its log has the reason"),
                )
            finally:
                del self._running[key]

    async def _work(self, entry: Entry, decoder: ProcessDecoder) -> None:
        entry.attempts = Attempts(entry.task, self._timeout, self._count_death)
        entry.started = entry.attempts.started
        self._metrics.wait.observe(entry.started - entry.accepted)
        try:
            result = await entry.attempts.run(decoder)
        except WorkError as error:
            return self._fail(entry, error)
        self._succeed(entry, result)

    def _count_death(self, reason: str) -> None:
        self._metrics.child_deaths.labels(reason).inc()


class ThreadPool(BaseQueue):
    """A pool of daemon threads. Each takes the best task, processes it, and takes the next.

    The queue belongs to the event loop. A free thread leaves a future there, and the loop sets it to the next task. A
    task that is cancelled or too late is answered immediately. Its thread continues, and the result is deleted.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        config: ChildConfig,
        results: ResultStore,
        bounds: QueueBounds,
        metrics: Metrics,
    ) -> None:
        super().__init__(results, bounds, metrics)
        self._config = config
        self._free: deque[Future[Entry | None]] = deque()
        self._threads = [
            threading.Thread(target=self._work, name=f"sluice-worker-{number}", daemon=True)
            for number in range(settings.decoders)
        ]

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()

    def ready(self) -> bool:
        return not self._closing and all(thread.is_alive() for thread in self._threads)

    async def close(self, deadline: float) -> None:
        await self._finish(deadline)
        self._wake()
        await self._settle()

    def at_once(self) -> int:
        return len(self._threads)

    def _stop(self, entry: Entry) -> None:
        """Makes the task's id usable again, although OpenCV in a thread cannot be stopped."""
        key = entry.task.session, entry.task.id
        if self._running.get(key) is entry:
            del self._running[key]

    def _wake(self) -> None:
        """Assigns tasks to free threads. When the queue is closing, assigns None, which ends a thread."""
        while self._free and (entry := None if self._closing else self._pending.take()) is not None:
            self._begin(entry)
            self._free.popleft().set_result(entry)
        while self._free and self._closing:
            self._free.popleft().set_result(None)

    def _begin(self, entry: Entry) -> None:
        self._running[entry.task.session, entry.task.id] = entry
        entry.started = self._loop.time()
        entry.deadline = self._loop.call_later(self._config.timeout, self._expire, entry)
        self._metrics.wait.observe(entry.started - entry.accepted)

    def _expire(self, entry: Entry) -> None:
        self._stop(entry)
        late = f"slice not finished within {self._config.timeout:g} s (slice_timeout)"
        self._fail(entry, WorkError("timeout", late))

    def _end(self, entry: Entry, outcome: Result | WorkError) -> None:
        if entry.deadline:
            entry.deadline.cancel()
        self._stop(entry)
        if isinstance(outcome, WorkError):
            self._fail(entry, outcome)
        else:
            self._succeed(entry, outcome)

    def _take(self, free: "Future[Entry | None]") -> None:
        self._free.append(free)
        self._wake()

    # In the threads

    def _work(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, because the server has ended
            while True:
                free: Future[Entry | None] = Future()
                self._loop.call_soon_threadsafe(self._take, free)
                entry = free.result()
                if entry is None:
                    return
                self._loop.call_soon_threadsafe(self._end, entry, self._process(entry))

    def _process(self, entry: Entry) -> Result | WorkError:
        try:
            with only_work_errors(self._config.memory):
                return process(entry.task, self._results, self._config.images)
        except WorkError as error:
            return error
