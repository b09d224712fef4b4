"""The two connections of a process to Redis: one for its calls, one on which it receives what is published.

The only file that imports the driver.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from works.events.redis.calls import RedisCall
from works.events.redis.scripts import DIGESTS, SCRIPTS


def make_pool(url: str) -> ConnectionPool:
    """What makes connections to Redis at that URL; it does not connect yet. Raises ValueError for an invalid URL."""
    # We look at the clock ourselves: redis-py's timeout for sending is asyncio.wait_for, which before Python 3.12
    # may swallow a cancellation, and sends in a task of its own, a moment later.
    always = {"protocol": 2, "decode_responses": True, "socket_timeout": None}
    pool = ConnectionPool.from_url(url, **always)
    pool.connection_kwargs |= always  # also where the URL sets another
    return pool


def database_of(pool: ConnectionPool) -> int:
    """The number of the database that the URL names."""
    return int(pool.connection_kwargs.get("db", 0))


class CallConnection:
    """The connection by which calls are made; it is made again after it broke. ``answer``: seconds for Redis to
    connect, and to answer a group of calls.

    When a call is cancelled the driver disconnects, so its late answer is never read as that of another call.
    """

    def __init__(self, pool: ConnectionPool, answer: float) -> None:
        self._pool, self._answer = pool, answer
        self._connection: AbstractConnection | None = None

    async def execute(self, calls: Sequence[RedisCall]) -> list[Any]:
        """The answer to each call, an OSError where there is none: that call may have been executed all the same."""
        answers: list[Any] = []
        try:
            async with asyncio.timeout(self._answer):
                connection = self._connection or await self._connect()
                commands = [("EVALSHA", DIGESTS[call.script], 0, *call.arguments) for call in calls]
                await connection.send_packed_command(connection.pack_commands(commands))
                while len(answers) < len(calls):
                    answers.append(await _read_answer(connection))
        except (RedisError, OSError, ValueError) as error:  # ValueError: what came was not of Redis
            await self.close()
            fault = OSError(str(error) or f"Redis has not answered for {self._answer:g} s")
            answers += [fault] * (len(calls) - len(answers))
        return answers

    async def close(self) -> None:
        if self._connection:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    async def _connect(self) -> AbstractConnection:
        """With the scripts, which Redis may have forgotten."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            loading = [("SCRIPT", "LOAD", script) for script in SCRIPTS.values()]
            await connection.send_packed_command(connection.pack_commands(loading))
            for _ in loading:
                await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._connection = connection  # not before it has the scripts
        return connection


async def _read_answer(connection: AbstractConnection) -> Any:
    """An OSError when Redis refuses: its disk or its memory is full, it is loading, or no longer the master."""
    try:
        return await connection.read_response(timeout=math.inf)
    except NoScriptError:
        raise  # the scripts were flushed; the next connection loads them again
    except ResponseError as error:
        return OSError(str(error).partition(" script: ")[0])  # without the line of our script


class ChannelConnection:
    """The connection on which this process receives what is published. A stream's channel is its name after the
    prefix. ``answer``: seconds for Redis to connect. Each method raises OSError."""

    def __init__(self, pool: ConnectionPool, prefix: str, answer: float) -> None:
        self._pool, self._prefix, self._answer = pool, prefix, answer
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        """Connects again; no stream is subscribed."""
        try:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            async with asyncio.timeout(self._answer):
                await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise OSError(str(error)) from None
        self._connection = connection

    async def change(self, add: set[str], drop: set[str]) -> None:
        """Subscribes some streams and unsubscribes others. With neither it pings, so that Redis sends something."""
        for command, streams in (("SUBSCRIBE", add), ("UNSUBSCRIBE", drop)):
            if streams:
                await self._send(command, *(self._prefix + stream for stream in streams))
        if not add and not drop:
            await self._send("PING")

    async def next(self) -> tuple[str, str, str]:
        """What Redis sends next: its kind, the stream and the message; all empty for the answer to a ping."""
        assert self._connection
        try:
            reply = await self._connection.read_response(timeout=math.inf)
        except RedisError as error:
            raise OSError(str(error)) from None
        if isinstance(reply, list) and len(reply) == 3:
            return reply[0], str(reply[1]).removeprefix(self._prefix), str(reply[2])
        return "", "", ""

    async def close(self) -> None:
        if self._connection:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    async def _send(self, *command: str) -> None:
        if self._connection and self._connection.is_connected:  # else it would connect by itself
            try:
                await self._connection.send_packed_command(self._connection.pack_command(*command))
            except RedisError as error:
                raise OSError(str(error)) from None
