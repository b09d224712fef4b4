"""The open sockets: how many a user and an address have, and all of them, to be closed when the server stops."""

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Protocol

from tornado.httpserver import HTTPServer

from works.metrics import Metrics

# Seconds between two looks at whether an answer has left: Tornado does not tell.
_LOOK = 0.02


class Connection(Protocol):
    user_name: str

    @property
    def address(self) -> str: ...

    def close(self, code: int | None = None, reason: str | None = None) -> None: ...


class TooMany(Exception):
    """A cap on connections is reached; the message names it and its setting. ``status`` is HTTP's."""

    status, cause = 429, "too_many_connections"


class Leaving(TooMany):
    """The server is ending and takes no connection more."""

    status, cause = 503, "restarting"


class Connections:
    def __init__(self, per_user: int, per_address: int, metrics: Metrics) -> None:
        self._per_user, self._per_address = per_user, per_address
        self._open: set[Connection] = set()
        self._users: Counter[str] = Counter()
        self._addresses: Counter[str] = Counter()
        self._none_left = asyncio.Event()
        self._leaving = False
        metrics.watch(metrics.connections, lambda: len(self._open))

    def add(self, connection: Connection) -> None:
        """Counts the connection in. Raises TooMany, or Leaving after ``refuse_more``."""
        if self._leaving:
            raise Leaving("the server is restarting")
        if self._users[connection.user_name] >= self._per_user:
            raise TooMany(f"this user has {self._per_user} open connections (connections_per_user)")
        if self._addresses[connection.address] >= self._per_address:
            raise TooMany(f"this address has {self._per_address} open connections (connections_per_address)")
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

    def close_user(self, name: str, code: int, reason: str) -> None:
        for connection in list(self._open):
            if connection.user_name == name:
                connection.close(code, reason)

    def close_all(self, code: int, reason: str) -> None:
        for connection in list(self._open):
            connection.close(code, reason)

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
