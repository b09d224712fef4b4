"""A real server for the tests: ``python server.py`` on a free loopback port, in a folder of its own."""

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from handlers.auth import issue

ROOT = Path(__file__).parent.parent
SECRET = "0123456789abcdef0123456789abcdef-for-the-tests"


class Server:
    """Started with settings as keyword arguments; ``url`` is http://127.0.0.1:PORT. ``secret`` None: no jwt_secret."""

    def __init__(self, folder: Path, port: int = 0, secret: str | None = SECRET, **settings: object) -> None:
        self.folder = folder
        self.media = folder / "media"
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "server.py"), f"--port={port}", *flags],
            cwd=folder,
            env=environment | {"PYTHONUNBUFFERED": "1"} | ({"SLUICE_JWT_SECRET": secret} if secret else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        in_time = self._ready.wait(30)
        found = re.search(r"ready: http://([\d.]+):(\d+)/", "".join(self.log))
        if not in_time or not found:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.log))
        self.port = int(found[2])
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws = f"ws://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.log.append(line)
            if "ready" in line:
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
        status = self.process.wait(30)
        self._reader.join(5)
        assert self.process.stdout
        self.process.stdout.close()
        return status


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def until(condition: Any, seconds: float = 30) -> None:
    """Waits for a condition, asking every 10 ms; ``seconds`` is only a guard against hanging."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


@contextmanager
def full_disk(most: int = 0) -> Iterator[None]:
    """Within, no file of this process grows beyond ``most`` bytes: a write fails there, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
