"""A real Redis for the tests: ``redis-server`` on a free loopback port, with its data in a separate folder."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port


def url_in(folder: Path) -> str:
    """Returns the URL of the Redis of this folder. Other processes can call this too."""
    return f"redis://127.0.0.1:{(folder / 'redis' / 'port').read_text()}/0"


class Redis:
    """A Redis server. ``appendonly`` says whether it still has its data after a restart."""

    def __init__(self, folder: Path, *, appendonly: bool = True, **settings: object) -> None:
        self.folder = folder / "redis"
        self.folder.mkdir()
        self.port = free_port()
        (self.folder / "port").write_text(str(self.port))
        settings = {"appendonly": "yes" if appendonly else "no", "save": "", "bind": "127.0.0.1"} | settings
        # "no" is enough, because no test cuts the power. With everysec and a slow disk, Redis acknowledges writes up to
        # 2 s before it writes them to its file, and a kill in that time would lose them.
        settings = {"appendfsync": "no"} | settings
        self._flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        self.start()

    def start(self) -> None:
        """Starts Redis and waits until it has loaded its data and answers."""
        command = ["redis-server", "--port", str(self.port), "--dir", str(self.folder), *self._flags]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise AssertionError("redis-server does not answer:\n" + (self.folder / "log").read_text())
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return self.ask("PING").startswith(("+PONG", "-NOAUTH"))
        except OSError:
            return False

    def ask(self, *command: str) -> str:
        """Sends a command to Redis and returns the first line of the answer."""
        words = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in command)
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(f"*{len(command)}\r\n{words}".encode())
            return connection.makefile("r", newline="\r\n").readline().strip()

    def pause(self) -> None:
        """Suspends Redis: it neither answers nor closes connections, and requests wait."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


@contextmanager
def redis_in(folder: Path, *, appendonly: bool = True, **settings: object) -> Iterator[Redis]:
    redis = Redis(folder, appendonly=appendonly, **settings)
    try:
        yield redis
    finally:
        redis.kill()
