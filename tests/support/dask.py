"""A real Dask cluster for the tests: ``server.py scheduler`` and ``server.py worker`` on free loopback ports."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.forking import ForkedProcess
from tests.support.ports import free_port
from tests.support.running import alive


class Dask:
    """A scheduler, started immediately by default, and workers added by ``add``.

    ``media`` is the media folder of all workers; ``settings`` apply to the scheduler and the workers.
    """

    def __init__(self, folder: Path, scheme: str = "tcp", *, start: bool = True, **settings: object) -> None:
        self.folder = folder / "dask"
        self.folder.mkdir()
        self.media = folder / "media"
        self.url = f"{scheme}://127.0.0.1:{free_port()}"
        self.scheduler: ForkedProcess | None = None
        self.workers: list[ForkedProcess] = []
        self._flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        if start:
            self.start()

    def start(self) -> None:
        """Starts the scheduler on its old port. The scheduler may still be loading when this returns."""
        self.scheduler = self._run("scheduler")

    def add(self, threads: int = 1, **settings: object) -> ForkedProcess:
        """Starts one more worker."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.workers.append(self._run("worker", f"--workers={threads}", f"--media=file:{self.media}", *flags))
        return self.workers[-1]

    def _run(self, role: str, *flags: str) -> ForkedProcess:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        arguments = [role, f"--scheduler={self.url}", *self._flags, *flags]
        with (self.folder / "log").open("a") as log:
            return ForkedProcess(arguments, self.folder, environment, log.fileno())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def kill(self, process: ForkedProcess | None) -> None:
        """Kills a process with SIGKILL and waits for its end."""
        assert process
        process.kill()
        process.wait(100)

    def stop(self, process: ForkedProcess, number: int = signal.SIGTERM) -> int:
        """Sends a signal, waits for the end, and returns the exit status."""
        process.send_signal(number)
        return process.wait(100)

    def decoders(self, worker: ForkedProcess) -> list[psutil.Process]:
        """Returns the decoder children of a worker."""
        found: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # the worker may end just now
            for forkserver in psutil.Process(worker.pid).children():
                found += forkserver.children()
        return [child for child in found if alive(child)]

    def close(self) -> None:
        for process in [*self.workers, *filter(None, [self.scheduler])]:
            if process.poll() is None:
                process.kill()
                process.wait(100)


@contextmanager
def dask_in(folder: Path, scheme: str = "tcp", *, start: bool = True, **settings: object) -> Iterator[Dask]:
    cluster = Dask(folder, scheme, start=start, **settings)
    try:
        yield cluster
    finally:
        cluster.close()


class Clusters:
    """One cluster for each number of threads. Each thread is a separate worker. A cluster starts when it is first
    requested.
    """

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder, self._settings = folder, settings
        self._started: dict[int, Dask] = {}

    def __enter__(self) -> "Clusters":
        return self

    def __exit__(self, *exception: object) -> None:
        for cluster in self._started.values():
            cluster.close()

    def with_threads(self, threads: int) -> Dask:
        """Returns the cluster with this number of threads, with an empty media folder."""
        if threads not in self._started:
            folder = self.folder / str(threads)
            folder.mkdir()
            self._started[threads] = Dask(folder, **self._settings)
            for _ in range(threads):
                self._started[threads].add()
        cluster = self._started[threads]
        shutil.rmtree(cluster.media, ignore_errors=True)
        cluster.media.mkdir()
        return cluster
