"""The two connections of a process to Redis: one for its calls, one for published events.

This is the only file that imports the driver.
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
    """Returns the driver's client for this URL. It does not connect yet. Raises ValueError for an invalid URL."""
    # The driver's own timeouts are not used. Its timeout for sending is asyncio.wait_for, which may swallow a
    # cancellation before Python 3.12, and which sends in a separate task, a moment later.
    always = {"protocol": 2, "decode_responses": True, "socket_timeout": None}
    pool = ConnectionPool.from_url(url, **always)
    pool.connection_kwargs |= always  # overrides a value in the URL
    return pool


def database_of(pool: ConnectionPool) -> int:
    """The number of the database in the URL."""
    return int(pool.connection_kwargs.get("db", 0))


class CallConnection:
    """The connection for calls. After an error it is opened again. ``answer``: seconds to connect, and to answer a
    group of calls.

    When a call is cancelled, the driver disconnects. So a late answer is never taken for that of another call.
    """

    def __init__(self, pool: ConnectionPool, answer: float) -> None:
        self._pool, self._answer = pool, answer
        self._connection: AbstractConnection | None = None

    async def execute(self, calls: Sequence[RedisCall]) -> list[Any]:
        """Returns the answer of each call. An OSError means that there was no answer, although the call may have been
        executed.
        """
        answers: list[Any] = []
        try:
            async with asyncio.timeout(self._answer):
                connection = self._connection or await self._connect()
                commands = [("EVALSHA", DIGESTS[call.script], 0, *call.arguments) for call in calls]
                await connection.send_packed_command(connection.pack_commands(commands))
                while len(answers) < len(calls):
                    answers.append(await _read_answer(connection))
        except (RedisError, OSError, ValueError) as error:  # ValueError: the received data were not Redis's protocol
            await self.close()
            fault = OSError(str(error) or f"Redis has not answered for {self._answer:g} s")
            answers += [fault] * (len(calls) - len(answers))
        return answers

    async def close(self) -> None:
        if self._connection:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    async def _connect(self) -> AbstractConnection:
        """Connects and loads the scripts, because Redis may have been restarted without them."""
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
        self._connection = connection  # the connection is used only after the scripts are loaded
        return connection


async def _read_answer(connection: AbstractConnection) -> Any:
    """Returns the OSError for a refusal of Redis: its disk or memory is full, it is loading, or it is no longer the
    master.
    """
    try:
        return await connection.read_response(timeout=math.inf)
    except NoScriptError:
        raise  # the scripts were flushed; the next connection loads them again
    except ResponseError as error:
        return OSError(str(error).partition(" script: ")[0])  # without the line number in the script


class ChannelConnection:
    """The connection for published events. Each method raises OSError.

    The channel of a stream has the stream's name after the prefix. ``answer``: seconds for Redis to connect.
    """

    def __init__(self, pool: ConnectionPool, prefix: str, answer: float) -> None:
        self._pool, self._prefix, self._answer = pool, prefix, answer
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        """Connects again, without any subscription. Raises OSError."""
        try:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            async with asyncio.timeout(self._answer):
                await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise OSError(str(error)) from None
        self._connection = connection

    async def change(self, add: set[str], drop: set[str]) -> None:
        """Subscribes some streams and unsubscribes others. Without streams it sends a ping, so that Redis answers
        something.
        """
        for command, streams in (("SUBSCRIBE", add), ("UNSUBSCRIBE", drop)):
            if streams:
                await self._send(command, *(self._prefix + stream for stream in streams))
        if not add and not drop:
            await self._send("PING")

    async def next(self) -> tuple[str, str, str]:
        """Returns the next message of Redis: its kind, the stream and the data. All three are empty for the answer to a
        ping.

        Raises OSError when the connection is lost.
        """
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
        # without a connection, the driver would connect by itself
        if self._connection and self._connection.is_connected:
            try:
                await self._connection.send_packed_command(self._connection.pack_command(*command))
            except RedisError as error:
                raise OSError(str(error)) from None
