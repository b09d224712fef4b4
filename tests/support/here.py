"""A server within the process of the test, for tests that look into it, or give it a handler of their own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import websockets
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from websockets.asyncio.client import ClientConnection

import config
import server
from handlers.core.auth import SCOPES, issue
from handlers.core.connections import Connections
from handlers.core.disconnects import ENDED
from handlers.core.settings import SocketSettings
from tests.support.running import SECRET


@asynccontextmanager
async def serving(folder: Path, *routes: tuple[str, type[Any]]) -> AsyncIterator[str]:
    """Its address, ws://127.0.0.1:PORT. It has all of our routes and these."""
    settings = config.settings_of(
        jwt_secret=SECRET,
        media=f"file:{folder}/media",
        uploads=f"file:{folder}/uploads",
        events=f"sqlite:{folder}/events.db",
        workers=1,
        isolation="thread",
    )
    services = await server.open_services(settings)
    connections = Connections(SocketSettings(), services.metrics)
    application = server.make_application(settings, services, connections)
    application.add_handlers(".*", list(routes))
    http = HTTPServer(application)
    (listening,) = bind_sockets(0, "127.0.0.1")
    http.add_sockets([listening])
    try:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        http.stop()
        connections.disconnect_all(ENDED)
        await http.close_all_connections()
        await services.drain(0)
        await services.close()


async def connect(url: str) -> ClientConnection:
    """A connection of alice, who may do everything."""
    headers = {"Authorization": f"Bearer {issue(SECRET, 'alice', ' '.join(SCOPES), 600)}"}
    return await websockets.connect(url, additional_headers=headers, proxy=None)


async def closed(socket: ClientConnection) -> tuple[int, str]:
    """Code and reason of the server's close."""
    async with asyncio.timeout(60):
        await socket.wait_closed()
    return socket.close_code or 1006, socket.close_reason or ""
