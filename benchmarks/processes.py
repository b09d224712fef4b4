"""Servers as child processes, each on a free loopback port and in a separate folder. They are measured with their
children.
"""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from benchmarks.pictures import ROOT
from handlers.core.auth import issue

SECRET = "a-secret-of-the-benchmark-and-of-nothing-else"
# Limits so high that no measure reaches them: the load generator is a single client that replaces many.
OPEN_LIMITS = {
    "messages_per_second": 10_000_000,
    "session_tasks": 100_000,
    "session_bytes": 8 << 30,
    "session_events": 1_000_000,
    "queue_tasks": 100_000,
    "queue_bytes": 8 << 30,
    "connections_per_user": 100_000,
    "connections_per_address": 100_000,
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raise_file_limit() -> int:
    """Raises the limit of file descriptors to the maximum and returns it. Each socket needs a descriptor."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Server:
    """A running server of any kind. It listens on ``port`` and writes its output to ``folder``/log."""

    def __init__(self, command: Sequence[str], port: int, folder: Path, **environment: str) -> None:
        self.port, self.folder = port, folder
        own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=folder, env=own | environment, stdout=log, stderr=subprocess.STDOUT
            )
        self.tree = psutil.Process(self._process.pid)
        try:
            self._wait(30)
        except BaseException:
            self.stop()
            raise

    def _wait(self, seconds: float) -> None:
        """Waits until the server accepts a connection. Checks every 2 ms, because the time of the start is measured
        too.
        """
        end = time.monotonic() + seconds
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server did not start:\n" + (self.folder / "log").read_text()[-2000:])
            time.sleep(0.002)

    def processes(self) -> list[psutil.Process]:
        return [self.tree, *self.tree.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the server and all its children, user and system."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.processes()))

    def own_memory(self) -> int:
        """Returns the resident memory of the server process itself, in bytes."""
        return int(self.tree.memory_info().rss)

    def memory(self) -> int:
        """Returns the memory of the server and all its children in bytes. Shared memory is counted once."""
        return int(sum(process.memory_full_info().pss for process in self.processes()))

    def rest(self, seconds: float = 30) -> None:
        """Waits until the server is idle."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            before = self.cpu_seconds()
            time.sleep(0.1)
            if self.cpu_seconds() - before <= 0.01:
                return

    def clear(self) -> None:
        """Deletes the results, so that a long run does not fill the disk."""
        for file in (self.folder / "media").glob("*"):
            file.unlink(missing_ok=True)

    def result(self, answer: bytes) -> bytes:
        """Returns the file of the result that the answer's URL refers to."""
        found = re.search(rb"/media/([0-9a-f]{32}\.\w+)", answer)
        assert found, answer
        return (self.folder / "media" / found[1].decode()).read_bytes()

    def stop(self) -> None:
        family = self.processes() if self._process.poll() is None else []
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def _in_memory() -> str | None:
    """Returns the folder for the files of all servers: a file system in memory, so that the disk is not measured.

    Results are deleted after each round. After that, an ext4 without a journal needs 500 us of CPU instead of 20 us to
    create a file, for some minutes, because it inspects every recently deleted inode.
    """
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30 else None


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=_in_memory()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(command: Sequence[str], port: int, **environment: str) -> Iterator[Server]:
    with folder() as path:
        server = Server(command, port, path, **environment)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def sluice(workers: int, **settings: object) -> Iterator[Server]:
    """Runs Sluice as ``make run`` starts it, with a fixed secret and these settings."""
    port = free_port()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, str(ROOT / "server.py"), f"--port={port}", f"--workers={workers}", *flags]
    with running(command, port, SLUICE_JWT_SECRET=SECRET) as server:
        yield server


def token(name: str = "bench") -> str:
    return issue(SECRET, name, "images chat video jobs", 3600)
