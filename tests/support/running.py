"""A real server for the tests: a process of ``server.py`` on a free loopback port, in a separate folder."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from handlers.core.auth import issue
from tests.support.forking import ForkedProcess
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef-for-the-tests"
# The default timeouts are so long that a server tolerates a very busy machine, where processes stop for seconds. The
# server also sends no pings, because many test clients send nothing by themselves.
PATIENT = {"slice_timeout": 60, "header_timeout": 100, "ping_interval": 600, "video_watchdog": 60, "video_grace": 60}
# Seconds that a test waits for anything. This is only a guard against hanging; no test measures this time.
GUARD = 60


def _run(arguments: list[str], folder: Path, environment: dict[str, str], output: int) -> "subprocess.Popen[bytes]":
    """Starts ``python server.py``."""
    command = [sys.executable, str(ROOT / "server.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


class Server:
    """A server that was started with these settings. ``url`` is http://127.0.0.1:PORT. With ``secret`` None it has no
    jwt_secret.

    It is forked from a process that has loaded server.py; with ``unforked`` it is a new ``python server.py``. Its port
    stays reserved for the tests after it has ended, so another server can be started on the same port.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        secret: str | None = SECRET,
        *,
        unforked: bool = False,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.media = folder / "media"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in (PATIENT | settings).items()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        port = free_port() if port is None else port
        self.log: list[str] = []
        arguments = [f"--port={port}", *flags]
        environment |= {"PYTHONUNBUFFERED": "1"}  # a forked server does not have this variable
        environment |= {"SLUICE_JWT_SECRET": secret} if secret else {}
        output, written = os.pipe()
        self.process = (_run if unforked else ForkedProcess)(arguments, folder, environment, written)
        os.close(written)
        self._output = os.fdopen(output)
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        in_time = self._ready.wait(GUARD)
        found = re.search(r"ready: http://(\S+):(\d+)/", "".join(self.log))
        if not in_time or not found:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.log))
        self.port = int(found[2])
        host = "[::1]" if found[1] == "[::1]" else "127.0.0.1"
        self.url = f"http://{host}:{self.port}"
        self.ws = f"ws://{host}:{self.port}"

    def _read(self) -> None:
        for line in self._output:
            self.log.append(line)
            if "ready: http" in line:
                self._ready.set()
        self._ready.set()

    def token(self, name: str = "alice", scope: str = "images", ttl: float = 600, **claims: str) -> str:
        return issue(SECRET, name, scope, ttl, **claims)

    def children(self) -> list[psutil.Process]:
        """Returns the decoder children, which are the children of the forkserver."""
        (forkserver,) = psutil.Process(self.process.pid).children()
        return [child for child in forkserver.children() if alive(child)]

    def results(self) -> list[str]:
        """Returns the names of all files in the media folder, including leftovers."""
        return sorted(os.listdir(self.media))

    def metric(self, name: str, **labels: str) -> float:
        """Returns the value of a metric, or 0.0 when it has not been counted yet."""
        wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"{name}{{{wanted}}}" if labels else name
        for row in httpx.get(f"{self.url}/metrics").text.splitlines():
            if row.startswith(line + " "):
                return float(row.split()[-1])
        return 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends SIGTERM or another signal, waits for the end, and returns the exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Waits for the end of a server that was signalled to stop, and returns its exit status.

        Do not send it a second signal: it may be at the very end of its shutdown, and would die of the signal.
        """
        status = self.process.wait(GUARD)
        # All output must be read first. If the file were closed during the read, the log would end with an error of the
        # thread.
        self._reader.join(GUARD)
        self._output.close()
        return status


Start = Callable[..., Server]
"""The type of the fixtures ``start`` and ``start_here``: they start a server with the settings given as keywords."""


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """Makes programs that are started in this context end at SIGINT.

    Tests that run in the background ignore SIGINT, and their children would inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def until(condition: Any, seconds: float = GUARD, *, pause: float = 0.01) -> None:
    """Waits until a condition is true, and checks it every 10 ms; ``seconds`` is only a guard against hanging.

    With ``pause`` 0 it checks the condition at every turn of the event loop. The test then continues before any other
    code can react to the condition.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        await asyncio.sleep(pause)


@contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """Limits files that this process writes to ``most`` bytes: further writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
