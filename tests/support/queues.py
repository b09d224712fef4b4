"""What the tests of the WorkQueue share: a queue on a folder, slices of known weight, and sight of the processes."""

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
    """A queue with what a test wants to know of it."""

    media: FolderResults
    figures: Metrics

    def deaths(self, reason: str) -> float:
        return self.figures.registry.get_sample_value("sluice_child_deaths_total", {"reason": reason}) or 0

    def worked(self) -> float:
        """How many have been worked to their end, wanted or not."""
        return self.figures.registry.get_sample_value("sluice_work_seconds_count") or 0

    def running(self) -> float:
        return self.figures.registry.get_sample_value("sluice_running") or 0


class InProcesses(ProcessPool, Seen):
    """Its own decoder children."""


class InThreads(ThreadPool, Seen):
    """Worker threads of this process."""


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
    """``settings`` are those of ClusterSettings; ``answer`` in seconds is how long the scheduler may take for one.

    Both are generous unless said otherwise: a busy machine must not make of a cluster that is there one that is away.
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
        """The slices that the cluster has, by their ids."""
        return [id for _, id in self._running]


@asynccontextmanager
async def on_dask(cluster: Dask, threads: int = 1, **settings: Any) -> AsyncIterator[OnDask]:
    """Begins when the cluster has so many threads."""
    queue = OnDask(cluster, **settings)
    await queue.start()
    try:
        await until(lambda: queue.threads == threads, 120)
        yield queue
    finally:
        await queue.close(0)


@asynccontextmanager
async def opened(folder: Path, kind: "str | Clusters" = "process", **settings: Any) -> AsyncIterator[Seen]:
    """``kind``: the isolation of this machine's decoders, or the clusters to choose from."""
    if isinstance(kind, Clusters):
        threads = settings.pop("workers", 1)
        # None waits at the cluster: then a queue on a cluster keeps its order to the letter, as a local one does.
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
    """Several seconds of work, in a call to OpenCV that nothing interrupts."""
    wide = encoded(as_image(np.tile(photograph(), (7, 7, 1))), quality=30)
    return task(id, session, wide, "blur", options={"radius": 50}, deliver="data")


def endless(id: str = "endless", session: str = "endless") -> Task:
    """Half a minute of work and more: nobody waits for its end."""
    return task(id, session, action="blur", options={"radius": 50}, zoom=78, deliver="data")


def moderate(id: str, session: str = "s") -> Task:
    """Some tenths of a second of work."""
    return task(id, session, encoded(photograph(), quality=30), "blur", options={"radius": 50}, zoom=2)


async def begun(queue: Seen) -> None:
    """Waits until a slice is at work, and is back before anything can come of that."""
    await until(queue.running, pause=0)


@contextmanager
def held(queue: Any) -> Iterator[None]:
    """Within, nothing comes of what the threads of a queue are at."""
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
    """The processes that we have started with this module."""
    found = []
    for each in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # one that has ended just now
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
        with suppress(psutil.NoSuchProcess):  # it was dying already
            each.kill()
