"""A server within the process of the test: in the test's event loop, or in a thread with an event loop.

The first form is for tests that inspect the server or add a handler to it. The second form is for tests that need a
server with special settings or an empty store, but no separate process.
"""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

import config
import server
from config import Settings
from handlers.core.auth import SCOPES, issue
from handlers.core.connections import Connections
from handlers.core.disconnects import ENDED
from tests.support.ports import free_port
from tests.support.running import GUARD, PATIENT, SECRET, Server
from works.services import Services


def settings_in(folder: Path, **values: Any) -> Settings:
    """Returns settings whose files are all in this folder, and whose slices are decoded in this process by default."""
    places = {
        "media": f"file:{folder}/media",
        "events": f"sqlite:{folder}/var/sluice.db",
        "uploads": None if "media" in values else f"file:{folder}/var/uploads",
        "spool": f"{folder}/var/spool",
        "job_folder": f"{folder}/var/jobs",
    }
    return config.settings_of(**PATIENT | places | {"jwt_secret": SECRET, "workers": 1, "isolation": "thread"} | values)


@asynccontextmanager
async def running(settings: Settings, *routes: tuple[str, type[Any]]) -> AsyncIterator[tuple[int, Services]]:
    """Runs a server in this event loop. It has all normal routes and these. Yields its port and its services."""
    (listening,) = server.listen(settings)
    with listening:
        services = await server.open_services(settings)
        connections = Connections(settings.sockets, services.metrics)
        application = server.make_application(settings, services, connections)
        application.add_handlers(".*", list(routes))
        http = server.make_server(settings, application)
        http.add_sockets([listening])
        server.start_background(services, connections)
        try:
            yield listening.getsockname()[1], services
        finally:
            http.stop()
            await services.drain(0)
            connections.disconnect_all(ENDED)
            await http.close_all_connections()
            await services.close()


@asynccontextmanager
async def serving(folder: Path, *routes: tuple[str, type[Any]]) -> AsyncIterator[str]:
    """Runs a server in this event loop, and yields its address, ws://127.0.0.1:PORT."""
    async with running(settings_in(folder, port=0), *routes) as (port, _):
        yield f"ws://127.0.0.1:{port}"


class LocalServer(Server):
    """A Server that runs in a thread of this process: it starts in 14 ms of CPU time, a forked process needs 100 ms.

    It is for tests that do not kill their server, do not look at its process, children or log, and do not fill it with
    work: with isolation=thread, the processing of a slice cannot be stopped.
    """

    def __init__(self, folder: Path, port: int | None = None, secret: str | None = SECRET, **settings: object) -> None:
        self.folder, self.media = folder, folder / "media"
        self.port = free_port() if port is None else port
        self.url, self.ws = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"
        self._settings = settings_in(folder, port=self.port, jwt_secret=secret, **settings)
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._ready.result(GUARD)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise  # pytest reports this exception
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with running(self._settings) as (_, self._services):
            self._ready.set_result(None)
            await self._end.wait()

    def metric(self, name: str, **labels: str) -> float:
        return self._services.metrics.registry.get_sample_value(name, labels) or 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert number == signal.SIGTERM, "a LocalServer has no process that can receive this signal"
        if not self._thread.is_alive():
            return 0
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(GUARD)
        assert not self._thread.is_alive()
        return 0


async def connect(url: str) -> ClientConnection:
    """Connects as the user alice, who has all scopes."""
    headers = {"Authorization": f"Bearer {issue(SECRET, 'alice', ' '.join(SCOPES), 600)}"}
    return await websockets.connect(url, additional_headers=headers, proxy=None)


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Returns code and reason of the server's close."""
    async with asyncio.timeout(60):
        await socket.wait_closed()
    return socket.close_code or 1006, socket.close_reason or ""
