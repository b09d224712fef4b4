"""Slices through Dask: CPU time of the server and the scheduler, added delay, and efficiency with 2 to 16 workers.

The workers sleep for 50 ms a slice, which simulates CPU cores that this machine does not have. All workers share the
machine with the server and the scheduler. Therefore their own CPU time, about 2 ms a slice, is part of the measured
loss.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import psutil

from benchmarks.figures import Figure, Measured
from benchmarks.measures import Plan
from benchmarks.pictures import ROOT
from benchmarks.processes import free_port
from works.imaging.task import Task
from works.metrics import Metrics
from works.queue.cluster import ClusterQueue
from works.queue.cluster_address import ClusterAddress
from works.queue.settings import ClusterSettings, QueueBounds
from works.storage.results_folder import FolderResults

WORKERS = (2, 4, 8, 16)
WORK = 0.05
# The number of slices of each worker in a round of the efficiency measure, which is 2 s of work.
_EACH = 40
# The size of a slice in bytes, as in the other measures.
_BYTES = 45_000
T = TypeVar("T")


class _Cluster:
    def __init__(self, queue: ClusterQueue, scheduler: psutil.Process) -> None:
        self._queue, self._scheduler = queue, scheduler
        self._own = psutil.Process()
        self._payload = os.urandom(_BYTES)
        self._number = 0

    def submit(self) -> "asyncio.Future[object]":
        self._number += 1
        return self._queue.submit(Task("s", str(self._number), self._payload, offset_top=self._number))

    async def drain(self, count: int) -> tuple[float, float, float]:
        """Submits ``count`` slices at the same time and waits for all results.

        Returns the seconds that they took, and the CPU milliseconds a slice of the server and of the scheduler.
        """
        before, started = self._cpu(), time.perf_counter()
        await asyncio.gather(*(self.submit() for _ in range(count)))
        took = time.perf_counter() - started
        own, scheduler = (1000 * (now - then) / count for now, then in zip(self._cpu(), before, strict=True))
        return took, own, scheduler

    async def delay(self) -> float:
        """Returns the milliseconds that one slice takes on an idle cluster."""
        await asyncio.sleep(0.1)
        started = time.perf_counter()
        await self.submit()
        return 1000 * (time.perf_counter() - started)

    def _cpu(self) -> tuple[float, float]:
        return tuple(sum(each.cpu_times()[:2]) for each in (self._own, self._scheduler))  # type: ignore[return-value]


def _processes(url: str, workers: int, seconds: float) -> list["subprocess.Popen[bytes]"]:
    """Starts the scheduler and then the workers."""
    commands = [["server.py", "scheduler", f"--scheduler={url}"]]
    commands += [["-m", "benchmarks.sleeper", url, str(seconds)]] * workers
    quiet = {"cwd": ROOT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return [subprocess.Popen([sys.executable, *command], **quiet) for command in commands]  # type: ignore[call-overload]


@asynccontextmanager
async def _started(workers: int, seconds: float, ahead: float = 0.5) -> AsyncIterator[_Cluster]:
    from works.queue.dask import DaskCluster

    url = f"tcp://127.0.0.1:{free_port()}"
    processes = _processes(url, workers, seconds)
    how = ClusterSettings(queue=url, queue_ahead=ahead)
    bounds = QueueBounds(session_tasks=100_000, session_bytes=1 << 30, queue_bytes=1 << 30)
    queue = ClusterQueue(
        lambda: DaskCluster.connect(ClusterAddress(how)), how, 60, FolderResults(ROOT), bounds, Metrics()
    )
    try:
        await queue.start()
        async with asyncio.timeout(120):
            while queue.at_once() < workers or not queue.ready():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        cluster = _Cluster(queue, psutil.Process(processes[0].pid))
        await cluster.drain(4 * workers)
        yield cluster
    finally:
        await queue.close(0)
        for process in processes:
            process.kill()
            process.wait()


async def _of(workers: int, seconds: float, measure: Callable[[_Cluster], Awaitable[T]], rounds: int) -> list[T]:
    async with _started(workers, seconds) as cluster:
        return [await measure(cluster) for _ in range(rounds)]


def cluster(plan: Plan) -> Measured:
    figures: list[Figure] = []
    for workers in WORKERS:
        count = workers * _EACH
        found = asyncio.run(_of(workers, WORK, lambda each, count=count: each.drain(count), plan.rounds))
        used = [_EACH * WORK / took for took, _, _ in found]
        figures.append(Figure(f"efficiency of {workers} Dask workers with 50 ms of work", used, 0.9))
        if workers in (2, 16):
            load = f"{workers} workers, 50 ms"
            figures.append(Figure(f"server CPU a slice through Dask, {load}", [own for _, own, _ in found], unit="ms"))
            figures.append(Figure(f"scheduler CPU a slice, {load}", [its for _, _, its in found], unit="ms"))
    full = asyncio.run(_of(4, 0, lambda each: each.drain(1000), plan.rounds))
    figures.append(Figure("slices/s through Dask, 4 workers that do nothing", [1000 / took for took, _, _ in full]))
    figures.append(Figure("server CPU a slice through Dask, 4 idle workers", [own for _, own, _ in full], unit="ms"))
    figures.append(Figure("scheduler CPU a slice, 4 idle workers", [its for _, _, its in full], unit="ms"))
    delays = asyncio.run(_of(2, 0, lambda each: each.delay(), 20 * plan.rounds))
    figures.append(Figure("added delay of a slice on an idle cluster", delays, unit="ms"))
    return Measured(figures)
