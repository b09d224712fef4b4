"""The driver of Dask: a server's connection to a cluster, a worker, and a scheduler. No other file imports Dask.

Dask's messages contain pickle, so a client that can connect can run programs. All parts must belong to one owner and
use TLS or a private network. Data from users, and answers of decoders, pass through Dask only as bytes.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import dask
import structlog
from dask._expr import LLGExpr
from dask._task_spec import Task
from distributed import Client, KilledWorker, Scheduler, Security, Status, Worker, WorkerPlugin, get_worker
from distributed.client import FutureCancelledError

from works.queue.attempts import ATTEMPTS, DecoderCrashed
from works.queue.cluster import ClusterLost
from works.queue.cluster_address import ClusterAddress
from works.queue.cluster_worker import WorkerDecoders

log = structlog.get_logger()

# Seconds that closing a connection may take.
_CLOSE = 2.0
# Seconds between two attempts of a worker to reach its scheduler: the first pause and the longest.
_BACKOFF = (0.1, 5.0)
_PLUGIN = "sluice"

_OURS = {
    # A slice that kills its worker on each attempt fails, as does one that kills its decoder.
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    # A slice waits at the scheduler, in order, and not at a busy worker while another worker is free.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # Dask must not move, spill or limit results. They are small and fetched immediately. Decoders limit their own
    # memory.
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # The profiler inspects all threads every 10 ms, and Sluice does not use its data.
    "distributed.worker.profile.enabled": False,
    # A worker without a heartbeat, such as a frozen machine, is removed after this time. Dask's default is 5 minutes.
    "distributed.scheduler.worker-ttl": "30 s",
    "distributed.comm.timeouts.connect": "5 s",
    "distributed.comm.timeouts.tcp": "15 s",
    # Logs for debugging Dask. The default is 100,000 entries.
    "distributed.admin.low-level-log-length": 1000,
    # A slice is part of its message, up to max_slice_bytes. Dask's default warns from 10 MB on.
    "distributed.admin.large-graph-warning-threshold": "1 GiB",
    # By default each connection requests a description of all workers every 2 s.
    "distributed.client.scheduler-info-interval": "60 s",
    "distributed.diagnostics.nvml": False,
    # Web pages on a port without authorization. They are enabled only on request.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
# Address of Dask's HTTP server when it has no pages. The server cannot be disabled.
_NO_PAGES = "127.0.0.1:0"
_PAGES = ["distributed.http.scheduler.prometheus", "distributed.http.scheduler.info", "distributed.http.health"]


def configure() -> None:
    """Sets Dask's configuration, and resets the loggers whose levels the import of Dask has changed."""
    dask.config.set(_OURS)
    for name in ("tornado", "tornado.application", "distributed", "distributed.client", "distributed.gc", "bokeh"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def security_of(address: ClusterAddress) -> Security | None:
    """Returns the TLS settings, or None without TLS. All parts require certificates of the same authority."""
    if not address.encrypted:
        return None
    pairs = {
        f"tls_{part}_{kind}": path
        for part in ("client", "scheduler", "worker")
        for kind, path in (("cert", address.settings.queue_cert), ("key", address.settings.queue_key))
    }
    return Security(require_encryption=True, tls_ca_file=address.settings.queue_ca, **pairs)


async def work(name: str, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """Runs in a worker: processes one task. ``name`` is the task's key as text, because Dask does not pass the key."""
    return await _decoders_of(get_worker()).work(name, header, payload)


def stop(names: list[str], dask_worker: Worker) -> None:
    """Runs in a worker: stops those of these tasks that it is processing."""
    for name in names:
        _decoders_of(dask_worker).stop(name)


def _name(key: Any) -> str:
    return "/".join(key)


def _decoders_of(worker: Worker) -> WorkerDecoders:
    plugin = worker.plugins[_PLUGIN]
    assert isinstance(plugin, _DecodersPlugin)
    return plugin.decoders


class DaskCluster:
    """A Cluster that uses one Dask Client on this loop.

    A Client reconnects by itself but forgets its requests. So it is closed when it has lost its scheduler, and
    ClusterQueue creates a new one. ``answer_timeout``: seconds that the scheduler has for each answer.
    """

    def __init__(self, client: Client, answer_timeout: float) -> None:
        self.lost = asyncio.Event()
        self._client, self._answer_timeout = client, answer_timeout
        self._prefix = f"sluice-{os.urandom(8).hex()}"

    @classmethod
    async def connect(cls, address: ClusterAddress, answer_timeout: float = 5.0) -> "DaskCluster":
        """Connects to the scheduler.

        Raises:
            OSError: the scheduler cannot be reached.
            ValueError: the address is refused.
        """
        configure()
        url = await address.resolve()
        client = Client(
            url,
            asynchronous=True,
            security=security_of(address),
            timeout=answer_timeout,
            set_as_default=False,
            direct_to_workers=True,
            name="sluice",
        )
        try:
            await client
        except BaseException:
            await _close(client)
            raise
        return cls(client, answer_timeout)

    async def threads(self) -> int:
        """As in Cluster. Raises ClusterLost."""
        try:
            async with asyncio.timeout(self._answer_timeout):
                return sum((await self._client.nthreads()).values())
        except (OSError, AttributeError) as error:  # AttributeError: the client was closed in the meantime
            raise ClusterLost(f"the scheduler does not answer: {error}") from None

    async def work(self, key: str, header: bytes, payload: bytes, *, background: bool) -> tuple[bytes, bytes]:
        """Processes a task. Tasks start in the order of the calls, which is the order of ranks and of the sessions'
        turns.

        The rank is not used as Dask's priority: it would put a session that has scrolled far behind all others.

        Raises:
            ClusterLost: the connection is lost.
            DecoderCrashed: the task has killed its worker several times.
        """
        if self.lost.is_set():
            raise ClusterLost("the connection to the scheduler is lost")
        whole = self._prefix, key
        # A data producer waits at the scheduler until a thread is free. Other tasks are queued at a worker, behind slow
        # slices.
        task = Task(whole, work, _name(whole), header, payload, _data_producer=True)
        # With an explicit token, Dask does not traverse the graph to compute one, which took 0.7 ms.
        graph = LLGExpr({whole: task}, _determ_token=_name(whole))
        (future,) = self._client.get(
            graph, [whole], sync=False, retries=ATTEMPTS - 1, priority=-1 if background else 0, fifo_timeout="0 s"
        )
        try:
            answered: tuple[bytes, bytes] = await future
            return answered
        except (FutureCancelledError, OSError) as error:
            self.lost.set()
            raise ClusterLost(str(error)) from None
        except KilledWorker:
            raise DecoderCrashed from None

    async def stop(self, keys: Iterable[str]) -> None:
        """As in Cluster. Raises ClusterLost."""
        wanted = {(self._prefix, key) for key in keys}
        try:
            async with asyncio.timeout(self._answer_timeout):
                at_work = await self._client.processing()
                for worker, its in at_work.items():
                    if found := [_name(key) for key in wanted.intersection(map(tuple, its))]:
                        await self._client.run(stop, found, workers=[worker], on_error="ignore")
        except (OSError, AttributeError) as error:
            raise ClusterLost(f"the scheduler does not answer: {error}") from None

    async def close(self) -> None:
        self.lost.set()
        await _close(self._client)


async def _close(client: Client) -> None:
    """Closes the client in a task of its own, because code in Dask swallows the cancellation of its caller."""
    closing = asyncio.ensure_future(client.close(timeout=_CLOSE))
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({closing}, timeout=_CLOSE)
    for state in list(client.futures.values()):
        state.cancel()


class _DecodersPlugin(WorkerPlugin):
    """Stops a task that the scheduler has released because its server has gone."""

    name = _PLUGIN

    def __init__(self, decoders: WorkerDecoders) -> None:
        self.decoders = decoders

    def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
        # A finished task goes to the state "memory" first. Dask itself lets a released task continue to its end.
        if (start, finish) == ("executing", "released"):
            self.decoders.stop(_name(key))


async def run_worker(
    address: ClusterAddress, decoders: WorkerDecoders, listen: str, drain: float, stopping: asyncio.Event
) -> None:
    """Runs a worker until ``stopping``, and reconnects when its scheduler restarts.

    At the end, running tasks have ``drain`` seconds to finish. Raises ValueError for an address that is refused.
    """
    configure()
    pause = _BACKOFF[0]
    while not stopping.is_set():
        try:
            async with _worker(address, decoders, listen) as worker:
                # When there is no scheduler yet, Dask's worker waits for it.
                if await _done_first(worker.start(), stopping):
                    pause = _BACKOFF[0]
                    log.info("worker.connected", scheduler=address.url, threads=len(decoders), address=worker.address)
                    if await _done_first(worker.finished(), stopping):
                        log.warning("worker.scheduler_lost", scheduler=address.url)
                    else:
                        await _retire(worker, decoders, drain)
        except OSError as error:
            log.warning("worker.scheduler_unavailable", scheduler=address.url, reason=str(error))
        await _done_first(asyncio.sleep(pause), stopping)
        pause = min(pause * 2, _BACKOFF[1])


async def _retire(worker: Worker, decoders: WorkerDecoders, drain: float) -> None:
    """Starts no more tasks, finishes the running ones, and waits until their results are fetched.

    Dask's own way is not used: it moves results to other workers and drops running tasks.
    """
    worker.status = Status.paused
    # RuntimeError: raised by Dask when the scheduler ends at the same moment.
    with suppress(TimeoutError, OSError, RuntimeError):
        async with asyncio.timeout(drain):
            # For Dask a task is still executing after its decoder has finished, until the worker has stored its result.
            while worker.state.executing or decoders.at_work or worker.data:  # noqa: ASYNC110, Dask has no event for this
                await asyncio.sleep(0.02)
        async with asyncio.timeout(_CLOSE):
            await worker.close_gracefully()


@asynccontextmanager
async def _worker(address: ClusterAddress, decoders: WorkerDecoders, listen: str) -> AsyncIterator[Worker]:
    url = await address.resolve()
    host = listen or local_address(url)
    address.check(host)
    worker = Worker(
        url,
        nthreads=len(decoders),
        host=host,
        protocol=address.scheme,
        security=security_of(address),
        memory_limit=0,
        dashboard=False,
        dashboard_address=_NO_PAGES,
        plugins=(_DecodersPlugin(decoders),),
    )
    try:
        yield worker
    finally:
        if worker.status != Status.closed:
            await asyncio.wait({asyncio.ensure_future(worker.close(timeout=_CLOSE, nanny=False))}, timeout=2 * _CLOSE)


def local_address(url: str) -> str:
    """Returns the address of this machine on the route to the host of ``url``. Sends nothing."""
    host, _, port = url.partition("//")[2].rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])


async def run_scheduler(address: ClusterAddress, listen: str, dashboard: str, stopping: asyncio.Event) -> None:
    """Runs a scheduler until ``stopping``.

    Raises:
        OSError: it cannot listen on the address.
        ValueError: the address is refused.
    """
    configure()
    if listen:
        address.check(listen)
    else:
        await address.resolve()
    if dashboard:
        dask.config.set({"distributed.scheduler.http.routes": _PAGES})
    scheduler = Scheduler(
        host=listen or address.host,
        port=address.port,
        protocol=address.scheme,
        security=security_of(address),
        dashboard=bool(dashboard),
        dashboard_address=dashboard or _NO_PAGES,
    )
    async with scheduler:
        log.info("scheduler.started", address=scheduler.address)
        await _done_first(scheduler.finished(), stopping)


async def _done_first(waited: Coroutine[Any, Any, Any], stopping: asyncio.Event) -> bool:
    """Returns whether the coroutine has finished before ``stopping`` was set. Otherwise cancels it. Raises its
    exception.
    """
    tasks = asyncio.ensure_future(waited), asyncio.ensure_future(stopping.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if tasks[0].done() and not stopping.is_set():
        tasks[1].cancel()
        await tasks[0]
        return True
    tasks[0].cancel()
    await asyncio.wait(tasks, timeout=_CLOSE)
    return False
