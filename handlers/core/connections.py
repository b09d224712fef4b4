"""The open sockets: how many a user and an address have, and all of them, to be closed when the server stops."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Protocol

from tornado.httpserver import HTTPServer

from handlers.core.disconnects import Disconnect
from handlers.core.refusals import RESTARTING, TOO_MANY_OF_ADDRESS, TOO_MANY_OF_USER, Refused
from handlers.core.settings import SocketSettings
from works.metrics import Metrics

# Seconds between two looks at whether an answer has left: Tornado does not tell.
_LOOK = 0.02


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
        self._none_left = asyncio.Event()
        self._leaving = False
        metrics.watch(metrics.connections, lambda: len(self._open))

    def add(self, connection: Connection) -> None:
        """Counts the connection in. Raises Refused: a bound is reached, or ``refuse_more`` was called."""
        if self._leaving:
            raise Refused(RESTARTING)
        if self._users[connection.user_name] >= (most := self._settings.connections_per_user):
            raise Refused(TOO_MANY_OF_USER, most=most)
        if self._addresses[connection.address] >= (most := self._settings.connections_per_address):
            raise Refused(TOO_MANY_OF_ADDRESS, most=most)
        self._open.add(connection)
        self._users[connection.user_name] += 1
        self._addresses[connection.address] += 1

    def remove(self, connection: Connection) -> None:
        """Counts the connection out; one that was not counted in is left alone."""
        if connection not in self._open:
            return
        self._open.remove(connection)
        for counter, key in ((self._users, connection.user_name), (self._addresses, connection.address)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        if not self._open:
            self._none_left.set()

    def refuse_more(self) -> None:
        """A proxy that keeps connections still brings new sockets by them, which would end without a close."""
        self._leaving = True

    def disconnect_user(self, name: str, disconnect: Disconnect) -> None:
        for connection in list(self._open):
            if connection.user_name == name:
                connection.disconnect(disconnect)

    def disconnect_all(self, disconnect: Disconnect) -> None:
        for connection in list(self._open):
            connection.disconnect(disconnect)

    async def all_closed(self, seconds: float) -> None:
        """Waits until none is open, or for that long."""
        self._none_left.clear()
        if self._open:
            await asyncio.wait([asyncio.ensure_future(self._none_left.wait())], timeout=seconds)

    def __len__(self) -> int:
        return len(self._open)


async def hang_up(server: HTTPServer, seconds: float) -> None:
    """Closes the connections that speak HTTP, once all answers have left, or after that long.

    Else the end of the loop would cancel requests, and Tornado answers a cancelled one with 500: one that has just come
    by a connection that a proxy keeps. Closed without an answer, it may be sent to another server.
    """
    streams = [connection.stream for connection in server._connections]
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    # What neither reads nor is closed works at its answer; what waits for a request, or for the rest of one, reads.
    while loop.time() < until and any(one.writing() or not (one.reading() or one.closed()) for one in streams):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK)
    for connection in list(server._connections):
        connection.stream.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await server.close_all_connections()
