"""Dask, as far as we use it: the connection of a server to a cluster, a worker, a scheduler. Its only driver.

Between the three it speaks pickle, so whoever can connect runs programs: they belong to one owner, behind TLS or on a
private network. What comes from clients is bytes to it, and what comes back from decoders too.
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

# Seconds that a connection has to close.
_CLOSE = 2.0
# Seconds before a worker that has lost its scheduler looks for it anew, and the most between two tries.
_BACKOFF = (0.1, 5.0)
_PLUGIN = "sluice"

_OURS = {
    # A slice that ends its worker each time is given up as one that ends its decoder.
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    # No slice waits at a worker while another worker has a thread free: it waits at the scheduler, in order.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.work-stealing": False,
    # Nothing is kept that could be moved, spilled or counted: results are small and fetched at once. A decoder's
    # memory is bounded by the decoder.
    "distributed.scheduler.active-memory-manager.start": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    # A look at all threads every 10 ms, of which nobody reads what it saw.
    "distributed.worker.profile.enabled": False,
    # A worker that does not even send its heartbeat (a frozen machine) is given up; the default is 5 minutes.
    "distributed.scheduler.worker-ttl": "30 s",
    "distributed.comm.timeouts.connect": "5 s",
    "distributed.comm.timeouts.tcp": "15 s",
    # Diaries of 100,000 entries each, for debugging Dask.
    "distributed.admin.low-level-log-length": 1000,
    # A slice is part of its message, up to max_slice_bytes; Dask warns from 10 MB on.
    "distributed.admin.large-graph-warning-threshold": "1 GiB",
    # Each connection would ask for a description of all workers every 2 s.
    "distributed.client.scheduler-info-interval": "60 s",
    "distributed.diagnostics.nvml": False,
    # Pages for people, on a port of their own, open to whoever reaches it: only when asked for.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}
# Where Dask's HTTP server listens, which cannot be left out, when it has no pages.
_NO_PAGES = "127.0.0.1:0"
_PAGES = ["distributed.http.scheduler.prometheus", "distributed.http.scheduler.info", "distributed.http.health"]


def configure() -> None:
    """Sets Dask's own configuration, and takes back what its import did to the levels of other people's loggers."""
    dask.config.set(_OURS)
    for name in ("tornado", "tornado.application", "distributed", "distributed.client", "distributed.gc", "bokeh"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def security_of(address: ClusterAddress) -> Security | None:
    """All parts of a cluster show a certificate of the same authority, and ask for one."""
    if not address.encrypted:
        return None
    pairs = {
        f"tls_{part}_{kind}": path
        for part in ("client", "scheduler", "worker")
        for kind, path in (("cert", address.settings.queue_cert), ("key", address.settings.queue_key))
    }
    return Security(require_encryption=True, tls_ca_file=address.settings.queue_ca, **pairs)


async def work(name: str, header: bytes, payload: bytes) -> tuple[bytes, bytes]:
    """What a worker does: processes one task. ``name`` is the key's, which Dask keeps to itself."""
    return await _decoders_of(get_worker()).work(name, header, payload)


def stop(names: list[str], dask_worker: Worker) -> None:
    """Ends those of these tasks that this worker is at."""
    for name in names:
        _decoders_of(dask_worker).stop(name)


def _name(key: Any) -> str:
    return "/".join(key)


def _decoders_of(worker: Worker) -> WorkerDecoders:
    plugin = worker.plugins[_PLUGIN]
    assert isinstance(plugin, _DecodersPlugin)
    return plugin.decoders


class DaskCluster:
    """A Cluster, by one Client on this loop. A Client connects anew by itself, but forgets what it was asked: so
    this one is given up as soon as it has lost its scheduler, and ClusterQueue makes another.

    ``answer_timeout``: seconds that the scheduler has for each answer.
    """

    def __init__(self, client: Client, answer_timeout: float) -> None:
        self.lost = asyncio.Event()
        self._client, self._answer_timeout = client, answer_timeout
        self._prefix = f"sluice-{os.urandom(8).hex()}"

    @classmethod
    async def connect(cls, address: ClusterAddress, answer_timeout: float = 5.0) -> "DaskCluster":
        """Raises OSError, or ValueError for an address that is refused."""
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
        try:
            async with asyncio.timeout(self._answer_timeout):
                return sum((await self._client.nthreads()).values())
        except (OSError, AttributeError) as error:  # AttributeError: it has closed in the meantime
            raise ClusterLost(f"the scheduler does not answer: {error}") from None

    async def work(self, key: str, header: bytes, payload: bytes, *, background: bool) -> tuple[bytes, bytes]:
        """First come, first worked: the order they are given in is the order of their ranks and of the sessions' turns.

        A rank itself would put a session that has scrolled far behind all others.
        """
        if self.lost.is_set():
            raise ClusterLost("the connection broke")
        whole = self._prefix, key
        # Said to produce data, it waits at the scheduler until a thread is free, not at a worker behind a slow slice.
        task = Task(whole, work, _name(whole), header, payload, _data_producer=True)
        # With a token of its own the graph is not read through for one: 0.7 ms.
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
    """In a task of its own: what Dask waits for here swallows the cancelling of whoever waits with it."""
    closing = asyncio.ensure_future(client.close(timeout=_CLOSE))
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait({closing}, timeout=_CLOSE)
    for state in list(client.futures.values()):
        state.cancel()


class _DecodersPlugin(WorkerPlugin):
    """Has a task ended that the scheduler does not want any more, because its server is gone."""

    name = _PLUGIN

    def __init__(self, decoders: WorkerDecoders) -> None:
        self.decoders = decoders

    def transition(self, key: Any, start: str, finish: str, **more: Any) -> None:
        # What is finished goes by "memory". Dask itself lets a released task run on to its end.
        if (start, finish) == ("executing", "released"):
            self.decoders.stop(_name(key))


async def run_worker(
    address: ClusterAddress, decoders: WorkerDecoders, listen: str, drain: float, stopping: asyncio.Event
) -> None:
    """Works for the scheduler until ``stopping``, whatever becomes of the scheduler, then ends what it is at within
    ``drain`` seconds. Raises ValueError for an address that is refused."""
    configure()
    pause = _BACKOFF[0]
    while not stopping.is_set():
        try:
            async with _worker(address, decoders, listen) as worker:
                # Where there is no scheduler yet, Dask's worker waits for it.
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
    """Begins nothing more, ends what it is at, and waits until what it has is fetched. Dask's own way moves what is
    there, and drops what runs."""
    worker.status = Status.paused
    # RuntimeError: Dask's, for a scheduler that went at the same moment.
    with suppress(TimeoutError, OSError, RuntimeError):
        async with asyncio.timeout(drain):
            # What has left its decoder is still executing, to Dask, until it is among what the worker has.
            while worker.state.executing or decoders.at_work or worker.data:  # noqa: ASYNC110 - nor is it told when fetched
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
    """The address of this machine on the way to that one; nothing is sent."""
    host, _, port = url.partition("//")[2].rpartition(":")
    family = socket.AF_INET6 if "[" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])


async def run_scheduler(address: ClusterAddress, listen: str, dashboard: str, stopping: asyncio.Event) -> None:
    """Until ``stopping``. Raises OSError when it cannot listen, ValueError for an address that is refused."""
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
    """Whether it is done before ``stopping`` is set; else it is cancelled. Raises what it raises."""
    tasks = asyncio.ensure_future(waited), asyncio.ensure_future(stopping.wait())
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    if tasks[0].done() and not stopping.is_set():
        tasks[1].cancel()
        await tasks[0]
        return True
    tasks[0].cancel()
    await asyncio.wait(tasks, timeout=_CLOSE)
    return False
