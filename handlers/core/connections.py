"""The open sockets of this server. Limits how many each user and each address may have, and closes all of them when the
server stops.
"""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Protocol

from tornado.httpserver import HTTPServer

from handlers.core.disconnects import Disconnect
from handlers.core.refusals import RESTARTING, TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, Refused
from handlers.core.settings import SocketSettings
from works.metrics import Metrics

# Seconds between two checks whether a response has been sent. Tornado has no event for this.
_POLL_INTERVAL = 0.02


class Connection(Protocol):
    user_name: str

    @property
    def address(self) -> str: ...

    def disconnect(self, disconnect: Disconnect) -> None: ...


class Connections:
    def __init__(self, settings: SocketSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._open: set[Connection] = set()
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._all_closed = asyncio.Event()
        self._refuses_new = False
        metrics.watch(metrics.connections, lambda: len(self._open))

    def add(self, connection: Connection) -> None:
        """Adds an open connection. Raises Refused when a limit is reached or after ``refuse_new`` was called."""
        if self._refuses_new:
            raise Refused(RESTARTING)
        if self._users[connection.user_name] >= (most := self._settings.connections_per_user):
            raise Refused(TOO_MANY_OF_USER, most=most)
        if self._addresses[connection.address] >= (most := self._settings.connections_per_address):
            raise Refused(TOO_MANY_OF_ADDRESS, most=most)
        self._open.add(connection)
        self._users[connection.user_name] += 1
        self._addresses[connection.address] += 1

    def remove(self, connection: Connection) -> None:
        """Removes a connection. A connection that was never added is ignored."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        for counter, key in ((self._users, connection.user_name), (self._addresses, connection.address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        if not self._open:
            self._all_closed.set()

    def refuse_new(self) -> None:
        """Makes every later call of ``add`` raise Refused.

        A proxy with keep-alive connections can still open sockets after the server has stopped to listen. Without this
        refusal, these sockets would later end without a close frame.
        """
        self._refuses_new = True

    def disconnect_user(self, name: str, disconnect: Disconnect) -> None:
        for connection in list(self._open):
            if connection.user_name == name:
                connection.disconnect(disconnect)

    def disconnect_all(self, disconnect: Disconnect) -> None:
        for connection in list(self._open):
            connection.disconnect(disconnect)

    async def wait_closed(self, seconds: float) -> None:
        """Waits until no connection is open, for at most ``seconds``."""
        self._all_closed.clear()
        if self._open:
            await asyncio.wait([asyncio.ensure_future(self._all_closed.wait())], timeout=seconds)

    def __len__(self) -> int:
        return len(self._open)


async def close_http_connections(server: HTTPServer, seconds: float) -> None:
    """Closes the HTTP connections of the server after all responses are sent, or after ``seconds`` at the latest.

    Without this wait, the end of the event loop would cancel running requests, and Tornado answers a cancelled request
    with 500. A request that has just arrived on a keep-alive connection of a proxy is closed without a response
    instead, and the proxy may send the request to another server.
    """
    streams = [connection.stream for connection in server._connections]
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    # A stream that is open but not reading has a request in progress. A stream that waits for a new request, or for
    # more bytes of a request, is reading.
    while loop.time() < until and any(one.writing() or not (one.reading() or one.closed()) for one in streams):  # noqa: ASYNC110
        await asyncio.sleep(_POLL_INTERVAL)
    for connection in list(server._connections):
        connection.stream.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await server.close_all_connections()
