"""A real server for the tests: a process of ``server.py`` on a free loopback port, in a folder of its own."""

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
# Where a test says nothing else, a server is patient with a machine so busy that processes stand still for seconds.
# Nor does it ping: many a client of the tests is one that says nothing by itself.
PATIENT = {"slice_timeout": 60, "header_timeout": 100, "ping_interval": 600, "video_watchdog": 60, "video_grace": 60}
# Seconds for whatever is waited for: only against hanging. No test is about how long this is.
GUARD = 60


def _run(arguments: list[str], folder: Path, environment: dict[str, str], output: int) -> "subprocess.Popen[bytes]":
    """``python server.py``."""
    command = [sys.executable, str(ROOT / "server.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)


class Server:
    """Started with settings as keyword arguments; ``url`` is http://127.0.0.1:PORT. ``secret`` None: no jwt_secret.

    It is forked from a process that has loaded server.py, unless it is to be ``unforked``: ``python server.py``. Its
    port is the tests' own, also when it has ended and is to be started again on it.
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
        environment |= {"PYTHONUNBUFFERED": "1"}  # a forked one does without
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
        """The decoder children: what the forkserver has forked."""
        (forkserver,) = psutil.Process(self.process.pid).children()
        return [child for child in forkserver.children() if alive(child)]

    def results(self) -> list[str]:
        """The names in the media folder, results and debris alike."""
        return sorted(os.listdir(self.media))

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric; 0.0 when it has not been counted yet."""
        wanted = ",".join(f'{label}="{value}"' for label, value in labels.items())
        line = f"{name}{{{wanted}}}" if labels else name
        for row in httpx.get(f"{self.url}/metrics").text.splitlines():
            if row.startswith(line + " "):
                return float(row.split()[-1])
        return 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status, after SIGTERM or another signal."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """The exit status of one that was told to stop. Told twice, it may be at its very end, and die of that."""
        status = self.process.wait(GUARD)
        # To its last word: closed while it is read, the log would end in an error of the thread's.
        self._reader.join(GUARD)
        self._output.close()
        return status


Start = Callable[..., Server]
"""What the fixtures ``start`` and ``start_here`` give: starts a server with these settings."""


@contextmanager
def hearing_ctrl_c() -> Iterator[None]:
    """What is started within ends at SIGINT, also where the tests run in the background and are deaf to it."""
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
    """Waits for a condition, asking every 10 ms; ``seconds`` is only a guard against hanging.

    With ``pause`` 0 it asks at each turn of the loop: what it waits for is seen before anything can come of it.
    """
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(pause)


@contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """Within, no file of this process grows beyond ``most`` bytes: a write fails there, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
