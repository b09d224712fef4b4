"""Servers as child processes: each on a free loopback port, in a folder of its own, measured as a whole tree."""

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
# So high that no measure meets them: the load generator is one client where in life there are many.
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
    """A socket is a descriptor; how many this process may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Server:
    """Any server: started, reachable on ``port``, its output in ``folder``/log."""

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
        """Until a connection is taken. Asked every 2 ms: the time of the start is measured too."""
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
        """Of the whole tree, user and system."""
        return float(sum(sum(process.cpu_times()[:2]) for process in self.processes()))

    def own_memory(self) -> int:
        """Bytes resident of the server process itself."""
        return int(self.tree.memory_info().rss)

    def memory(self) -> int:
        """Bytes of the whole tree, what is shared counted once."""
        return int(sum(process.memory_full_info().pss for process in self.processes()))

    def rest(self, seconds: float = 30) -> None:
        """Waits until the server has nothing more to do."""
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
        """The result that the answer's URL is of."""
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
    """Where the servers' folders are, ours and the peers': the disk must not be what is measured.

    Results are deleted after each round, and an ext4 without a journal then takes 500 us of CPU to make a file, for
    minutes, in place of 20: it looks at every inode that was deleted lately.
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
    """Sluice as ``make run`` starts it, but for a key and the settings given."""
    port = free_port()
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [sys.executable, str(ROOT / "server.py"), f"--port={port}", f"--workers={workers}", *flags]
    with running(command, port, SLUICE_JWT_SECRET=SECRET) as server:
        yield server


def token(name: str = "bench") -> str:
    return issue(SECRET, name, "images chat video jobs", 3600)
