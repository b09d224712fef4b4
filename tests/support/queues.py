"""Helpers for the tests of the WorkQueue: a queue on a folder, slices of known duration, and access
to the processes.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.support.dask import Clusters, Dask
from tests.support.pictures import encoded, photograph, small
from tests.support.running import alive, until
from works.errors import WorkError
from works.imaging import actions
from works.imaging.pixels import as_image
from works.imaging.settings import ImageLimits
from works.imaging.task import Result, Task
from works.metrics import Metrics
from works.queue.base import BaseQueue
from works.queue.cluster import ClusterQueue
from works.queue.cluster_address import ClusterAddress
from works.queue.decoder_child import ChildConfig
from works.queue.decoder_pool import ProcessPool, ThreadPool
from works.queue.order import Entry
from works.queue.settings import ClusterSettings, DecoderSettings, QueueBounds
from works.storage.results_folder import FolderResults


class Seen(BaseQueue):
    """A queue with methods that let a test observe it."""

    media: FolderResults
    figures: Metrics

    def deaths(self, reason: str) -> float:
        return self.figures.registry.get_sample_value("sluice_child_deaths_total", {"reason": reason}) or 0

    def worked(self) -> float:
        """Returns the number of slices that were processed to the end, including cancelled ones."""
        return self.figures.registry.get_sample_value("sluice_work_seconds_count") or 0

    def running(self) -> float:
        return self.figures.registry.get_sample_value("sluice_running") or 0


class InProcesses(ProcessPool, Seen):
    """A queue with decoder child processes."""


class InThreads(ThreadPool, Seen):
    """A queue with worker threads in this process."""


Queue = InProcesses | InThreads


def make_queue(
    folder: Path,
    isolation: str = "process",
    *,
    workers: int = 1,
    timeout: float = 100,
    memory: int = 1 << 30,
    bounds: QueueBounds | None = None,
) -> Queue:
    folder.mkdir(exist_ok=True)
    results, metrics = FolderResults(folder), Metrics()
    settings = DecoderSettings(workers=workers, child_memory=memory, slice_timeout=timeout)
    config = ChildConfig.of(settings, ImageLimits(), results.url)
    kind = InProcesses if isolation == "process" else InThreads
    queue = kind(settings, config, results, bounds or QueueBounds(), metrics)
    queue.media, queue.figures = results, metrics
    return queue


class OnDask(ClusterQueue, Seen):
    """A queue on a Dask cluster. ``settings`` are those of ClusterSettings.

    ``answer`` is how many seconds the scheduler may take for an answer. All timeouts are long by default, so that a
    slow cluster on a busy machine is not treated as a lost one.
    """

    def __init__(
        self,
        cluster: Dask,
        *,
        bounds: QueueBounds | None = None,
        timeout: float = 100,
        answer: float = 60,
        **settings: Any,
    ) -> None:
        from works.queue.dask import DaskCluster

        cluster.media.mkdir(exist_ok=True)
        self.media = FolderResults(cluster.media)
        self.figures = Metrics()
        how = ClusterSettings(queue=cluster.url, **({"queue_patience": 600} | settings))
        super().__init__(
            lambda: DaskCluster.connect(ClusterAddress(how), answer),
            how,
            timeout,
            self.media,
            bounds or QueueBounds(),
            self.figures,
        )

    @property
    def threads(self) -> int:
        return self._threads

    @property
    def connected(self) -> bool:
        return self._cluster is not None

    def given(self) -> list[str]:
        """Returns the ids of the slices that were sent to the cluster and have not ended."""
        return [id for _, id in self._running]


@asynccontextmanager
async def on_dask(cluster: Dask, threads: int = 1, **settings: Any) -> AsyncIterator[OnDask]:
    """Opens the queue once the cluster has ``threads`` threads."""
    queue = OnDask(cluster, **settings)
    await queue.start()
    try:
        await until(lambda: queue.threads == threads, 120)
        yield queue
    finally:
        await queue.close(0)


@asynccontextmanager
async def opened(folder: Path, kind: "str | Clusters" = "process", **settings: Any) -> AsyncIterator[Seen]:
    """Opens a queue. ``kind`` is the isolation of local decoders, or the clusters from which one is chosen."""
    if isinstance(kind, Clusters):
        threads = settings.pop("workers", 1)
        # With queue_ahead=0 no slice waits at the cluster. Then a queue on a cluster keeps the order as strictly as a
        # local queue does.
        async with on_dask(kind.with_threads(threads), threads, queue_ahead=0, **settings) as queue:
            yield queue
        return
    queue = make_queue(folder / "media", kind, **settings)
    await queue.start()
    try:
        yield queue
    finally:
        await queue.close(0)


def task(
    id: str = "1", session: str = "s", payload: bytes | None = None, action: str = "resize", **members: Any
) -> Task:
    options = actions.check(action, members.pop("options", {}))
    return Task(session, id, payload or small(), action=action, options=options, **members)


def slow(id: str = "slow", session: str = "slow") -> Task:
    """Returns a task of several seconds: one call to OpenCV that cannot be interrupted."""
    wide = encoded(as_image(np.tile(photograph(), (7, 7, 1))), quality=30)
    return task(id, session, wide, "blur", options={"radius": 50}, deliver="data")


def endless(id: str = "endless", session: str = "endless") -> Task:
    """Returns a task of more than half a minute. No test waits for its end."""
    return task(id, session, action="blur", options={"radius": 50}, zoom=78, deliver="data")


def moderate(id: str, session: str = "s") -> Task:
    """Returns a task of some tenths of a second."""
    return task(id, session, encoded(photograph(), quality=30), "blur", options={"radius": 50}, zoom=2)


async def begun(queue: Seen) -> None:
    """Waits until a slice is being processed, and returns before any other code can react."""
    await until(queue.running, pause=0)


@contextmanager
def held(queue: Any) -> Iterator[None]:
    """Blocks the threads of a queue in this context, so that they produce no results."""
    go_on = threading.Event()
    process = queue._process

    def wait_and_process(entry: Entry) -> Result | WorkError:
        go_on.wait()
        return process(entry)

    queue._process = wait_and_process
    try:
        yield
    finally:
        go_on.set()
        del queue._process


async def error_of(future: "asyncio.Future[Result]") -> WorkError:
    with pytest.raises(WorkError) as caught:
        await future
    return caught.value


def running_module(name: str) -> list[psutil.Process]:
    """Returns the child processes that were started with this module."""
    found = []
    for each in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # a process may end just now
            if name in each.cmdline():
                found.append(each)
    return found


def forkserver() -> psutil.Process:
    (found,) = running_module("works.queue.decoder_child")
    return found


def children() -> list[psutil.Process]:
    return [each for each in forkserver().children() if alive(each)]


def kill_all(processes: list[psutil.Process]) -> None:
    for each in processes:
        with suppress(psutil.NoSuchProcess):  # the process was already ending
            each.kill()
