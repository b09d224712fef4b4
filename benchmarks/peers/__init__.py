"""The servers that Sluice is compared with. Each is started as its documentation recommends, with as many workers."""

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.environments import PEERS, Unavailable, node, python
from benchmarks.processes import Server, folder, free_port, running


@contextmanager
def tutorial(workers: int) -> Iterator[Server]:
    """Runs the tutorial server. It uses the same Tornado and OpenCV as Sluice, so it needs no separate environment."""
    port = free_port()
    with running([sys.executable, str(PEERS / "tutorial.py"), str(port)], port) as server:
        yield server


@contextmanager
def channels(workers: int) -> Iterator[Server]:
    port = free_port()
    command = [str(python("channels") / "daphne"), "-b", "127.0.0.1", "-p", str(port), "asgi:application"]
    with running(command, port, PYTHONPATH=str(PEERS / "channels_app")) as server:
        yield server


@contextmanager
def sharp(workers: int) -> Iterator[Server]:
    port = free_port()
    with running(["node", str(node() / "server.mjs"), str(port)], port) as server:
        yield server


@contextmanager
def thumbor(workers: int, photographs: Sequence[Path]) -> Iterator[Server]:
    """Runs thumbor, which reads the photographs from their folder. It has as many processes as Sluice has workers."""
    port = free_port()
    executable = python("thumbor") / "thumbor"
    with folder() as path:
        configuration = path / "thumbor.conf"
        root = f'FILE_LOADER_ROOT_PATH = "{photographs[0].parent}"\n'
        configuration.write_text((PEERS / "thumbor.conf").read_text() + root)
        command = [str(executable), f"--port={port}", "--ip=127.0.0.1", f"--conf={configuration}"]
        with running([*command, f"--processes={workers}"], port) as server:
            yield server


@contextmanager
def socketio() -> Iterator[Server]:
    port = free_port()
    uvicorn = str(python("socketio") / "uvicorn")
    flags = ["--host=127.0.0.1", f"--port={port}", "--log-level=warning", "--ws-ping-interval=900"]
    with running([uvicorn, "socketio_app:application", *flags], port, PYTHONPATH=str(PEERS)) as server:
        yield server


@contextmanager
def channels_room() -> Iterator[Server]:
    """Runs Channels with a separate Redis server, which channels_redis needs.

    Raises Unavailable without redis-server.
    """
    if not shutil.which("redis-server"):
        raise Unavailable("redis-server is missing (Debian: redis-server)")
    port, redis = free_port(), free_port()
    command = [
        str(python("channels") / "daphne"),
        "-b",
        "127.0.0.1",
        "-p",
        str(port),
        "--ping-interval=900",
        "room:application",
    ]
    own = {"PYTHONPATH": str(PEERS / "channels_app"), "REDIS": f"redis://127.0.0.1:{redis}/0"}
    with (
        running(["redis-server", "--port", str(redis), "--bind", "127.0.0.1", "--save", ""], redis),
        running(command, port, **own) as server,
    ):
        yield server


@contextmanager
def bare(ping_interval: float) -> Iterator[Server]:
    port = free_port()
    with running([sys.executable, str(PEERS / "bare.py"), str(port), str(ping_interval)], port) as server:
        yield server


@contextmanager
def webgear(source: str) -> Iterator[Server]:
    port = free_port()
    uvicorn = str(python("vidgear") / "uvicorn")
    flags = ["--host=127.0.0.1", f"--port={port}", "--log-level=warning"]
    with running([uvicorn, "webgear_app:application", *flags], port, PYTHONPATH=str(PEERS), SOURCE=source) as server:
        yield server


SLICE_PEERS: dict[str, Callable[[int], AbstractContextManager[Server]]] = {
    "the tutorial server": tutorial,
    "Channels on daphne": channels,
    "ws + sharp": sharp,
}
