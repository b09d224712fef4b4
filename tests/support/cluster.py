"""A whole cluster of real parts on loopback: nginx, servers, a Dask scheduler and workers, Redis, an object store.

Each part is a process with a name: ``nginx``, ``redis``, ``scheduler``, ``server-1``, ``worker-1``, and so on.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.dask import Dask
from tests.support.forking import ForkedProcess
from tests.support.nginx import Nginx
from tests.support.ports import free_port
from tests.support.redis import Redis, url_in
from tests.support.running import Server, until
from tests.support.s3 import KEY, S3
from tests.support.s3 import SECRET as STORE_SECRET

# The key of the object store, in the provider's own environment variables, where workers and servers find it.
_PROVIDERS = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": STORE_SECRET}


# A long timeout, so that no slice fails because a worker had to wait for CPU time.
PATIENT = {"slice_timeout": 60}


class Cluster:
    """A cluster that clients use like a Server: ``url`` and ``ws`` are those of nginx.

    ``store`` is an S3 server; without one, results and uploads are in folders that all parts share. ``settings`` apply
    to the servers. The constructor returns when all parts answer.
    """

    def __init__(
        self, folder: Path, *, servers: int = 2, workers: int = 3, store: S3 | None = None, **settings: object
    ) -> None:
        self.folder = folder
        self.threads = workers
        self._ports = {f"server-{number}": free_port() for number in range(1, servers + 1)}
        self._parts: dict[str, Server | ForkedProcess] = {}
        self._ends = ExitStack()
        media, uploads = folder / "media", folder / "uploads"
        self._shared: dict[str, object] = {"media": f"file:{media}", **PATIENT}
        if store:
            # The servers deliver the results themselves, since a page in a test may not fetch from other hosts.
            self._shared = {**PATIENT, "media": store.media, "store_endpoint": store.url, "store_region": "us-east-1"}
            self._shared["store_timeout"] = 25
            settings = {"store_serve": "stream"} | settings
        else:
            settings = {"uploads": f"file:{uploads}", "accel_redirect": "/_files/"} | settings
        with self._ends:
            self._ends.callback(self._close)
            self.redis = Redis(folder)
            self._ends.callback(self.redis.kill)
            self.dask = Dask(folder, **self._shared)
            self._ends.callback(self.dask.close)
            self._settings = {
                "queue": self.dask.url,
                "events": url_in(folder),
                "trusted_proxies": "127.0.0.1",
                "connections_per_user": 1000,
                "connections_per_address": 1000,
                "queue_patience": 100,
                **self._shared,
                **settings,
            }
            for number in range(1, workers + 1):
                self.start(f"worker-{number}")
            for name in self._ports:
                self.start(name)
            self.nginx = Nginx(folder, list(self._ports.values()), media, uploads)
            self._ends.callback(self.nginx.stop)
            self.url, self.ws = self.nginx.url, self.nginx.ws
            self._ends = self._ends.pop_all()

    # The parts, by their names

    @property
    def servers(self) -> dict[str, Server]:
        return {name: part for name, part in self._parts.items() if isinstance(part, Server)}

    @property
    def workers(self) -> dict[str, ForkedProcess]:
        return {name: part for name, part in self._parts.items() if isinstance(part, ForkedProcess)}

    def start(self, name: str) -> None:
        """Starts a part that has ended, on its former port.

        Servers and Redis answer when this returns; the scheduler and workers may still be loading.
        """
        if name == "redis":
            self.redis.start()
        elif name == "scheduler":
            self.dask.start()
        elif name.startswith("worker"):
            self._parts[name] = self.dask.add(**self._shared)
        else:
            home = self.folder / name
            home.mkdir(exist_ok=True)
            self._parts[name] = Server(home, self._ports[name], **self._settings)

    def kill(self, name: str) -> None:
        """Kills a part with SIGKILL."""
        if name == "redis":
            self.redis.kill()
        elif name == "scheduler":
            self.dask.kill(self.dask.scheduler)
        else:
            self._end(name, signal.SIGKILL)

    def stop(self, name: str) -> int:
        """Stops a server or worker with SIGTERM, waits until it has ended, and returns its exit status."""
        return self._end(name, signal.SIGTERM)

    def _end(self, name: str, number: int) -> int:
        part = self._parts[name]
        return part.stop(number) if isinstance(part, Server) else self.dask.stop(part, number)

    async def mended(self) -> None:
        """Starts the parts that have ended, and waits until all servers are ready and all threads are available."""
        if self.redis.process.poll() is not None:
            self.start("redis")
        if not self.dask.scheduler or self.dask.scheduler.poll() is not None:
            self.start("scheduler")
        for name, part in list(self._parts.items()):
            if (part.process if isinstance(part, Server) else part).poll() is not None:
                self.start(name)
        await until(self.whole, 120)

    def whole(self) -> bool:
        """Returns whether every server reports that it is ready, and every worker is connected to the scheduler."""
        port = int(self.dask.url.rpartition(":")[2])
        try:
            for worker in self.workers.values():
                ends = psutil.Process(worker.pid).net_connections("tcp")
                if not any(end.raddr and end.raddr.port == port and end.status == "ESTABLISHED" for end in ends):
                    return False
            answers = [httpx.get(f"{server.url}/readyz", timeout=60) for server in self.servers.values()]
        except (httpx.TransportError, psutil.Error):
            return False
        return all(answer.status_code == 200 for answer in answers)

    # The interface of a Server

    def token(self, name: str = "alice", scope: str = "images", ttl: float = 600, **claims: str) -> str:
        return next(iter(self.servers.values())).token(name, scope, ttl, **claims)

    def busy(self) -> float:
        """Returns the number of slices that the servers have given to the scheduler."""
        return sum(server.metric("sluice_running") for server in self.servers.values())

    def done(self) -> float:
        """Returns the number of slices that the running servers have finished."""
        return sum(server.metric("sluice_slices_total", outcome="done") for server in self.servers.values())

    def log(self) -> str:
        """Returns the logs of all parts, for the report of a failed test."""
        said = {name: "".join(server.log) for name, server in self.servers.items()}
        said |= {"dask": self.dask.log, "nginx": (self.nginx.folder / "error.log").read_text()}
        return "\n".join(f"--- {name}\n{text}" for name, text in said.items())

    def close(self) -> None:
        self._ends.close()

    def _close(self) -> None:
        for server in self.servers.values():
            if server.process.poll() is None:
                server.stop(signal.SIGKILL)


@contextmanager
def cluster_in(folder: Path, **settings: Any) -> Iterator[Cluster]:
    before = {name: os.environ.get(name) for name in _PROVIDERS}
    os.environ.update(_PROVIDERS)
    try:
        cluster = Cluster(folder, **settings)
        try:
            yield cluster
        finally:
            cluster.close()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
