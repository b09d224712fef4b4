"""The EventLog in Redis, shared by any number of server processes that are one service.

A process has two connections: one for its calls, which are Lua scripts, and one by which it hears what is published.
What is written survives what Redis itself survives by its settings; a volatile stream as well as any other.
"""

import asyncio
import itertools
import math
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from works.events import PRESENT, Event, Fenced, Mark, Position
from works.events.redis.calls import PATIENCE, Argument, RedisCall, RedisCalls
from works.events.redis.scripts import DIGESTS, SCRIPTS
from works.events.redis.subscriptions import RedisSubscriptions, events_of

# Seconds that Redis has to connect, and to answer a group of calls: far more than it needs, less than our patience.
_ANSWER = 3.0
# Seconds that a volatile stream, or one without events, is kept when nobody says how long and nobody uses it: as long
# as results are kept by default, which is what the events of such a stream speak of.
_UNCLAIMED = 86_400.0
# What may wait to be written while Redis is away, in bytes; each event takes that much besides its data.
_MOST_UNWRITTEN, _BESIDES = 64 << 20, 1000
# Streams looked at in one step of a sweep, and connections entered again at once.
_PAGE = 500


class RedisEventLog:
    """``keep`` is how many events a stream holds; the oldest go first. ``present`` is there for the tests.

    Raises ValueError for a URL that is none. Redis may be away; then the first call says so.
    """

    def __init__(self, url: str, keep: int = 10_000, *, present: float = PRESENT) -> None:
        # We look at the clock ourselves: redis-py's timeout for sending is asyncio.wait_for, which before Python 3.12
        # may swallow a cancellation, and sends in a task of its own, a moment later.
        always = {"protocol": 2, "decode_responses": True, "socket_timeout": None}
        pool = ConnectionPool.from_url(url, **always)
        pool.connection_kwargs |= always  # whatever the URL says
        self._keep, self._present = keep, present
        self._process = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._unwritten = 0
        # The connections of this process that are present, by room and user. It says so again and again.
        self._entered: dict[tuple[str, str, str], None] = {}
        self._link = _Link(pool)
        self._calls = RedisCalls(self._link.ask)
        self._prefix = f"sluice:{pool.connection_kwargs.get('db', 0)}:"
        self._following = RedisSubscriptions(self._calls, _Channels(pool, self._prefix), self._process, self._look)
        self._refresher = asyncio.get_running_loop().create_task(self._refresh())

    @property
    def syncs(self) -> int:
        return 0

    async def position(self, stream: str) -> Position:
        epoch, head = await self._calls.call("look", *_begun(stream), "", 0, done="read")
        return Position(epoch, head)

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        size = len(data) + _BESIDES
        if self._unwritten + size > _MOST_UNWRITTEN:
            raise OSError("events cannot be written: too much is waiting to be")
        self._unwritten += size
        try:
            offset = await self._calls.call(
                "append",
                *_begun(stream),
                data,
                self._number() if id is None else f"={id}",
                int(durable),
                self._keep,
                self._prefix + stream,
                *(f"={each}" for each in unless),
                patience=PATIENCE if durable else None,
            )
        finally:
            self._unwritten -= size
        if offset < 0:
            raise ValueError("a volatile stream takes no ids")
        if not offset:
            raise Fenced(f"{stream} has one of {', '.join(unless)}")
        return int(offset)

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        found, head, next_event = await self._read(stream, after, 1)
        if found != epoch or not 0 <= after <= head:
            return False
        return after == head or [event.offset for event in next_event] == [after + 1]

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        return (await self._read(stream, after, limit))[2]

    def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        return self._following.subscribe(stream, after)

    async def mark(self, stream: str, reader: str, offset: int) -> Mark:
        return Mark(*await self._calls.call("mark", stream, reader, offset))

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        return bool(await self._calls.call("mark", stream, reader, offset, "known"))

    async def unmark(self, stream: str, reader: str) -> None:
        await self._calls.call("unmark", stream, reader)

    async def marks(self, reader: str) -> dict[str, Mark]:
        found = await self._calls.call("marks", reader, done="read")
        return {stream: Mark(*mark) for stream, *mark in zip(*[iter(found)] * 3, strict=True)}

    async def enter(self, room: str, user: str, connection: str) -> bool:
        who = (room, user, connection)
        new = who not in self._entered
        self._entered[who] = None
        try:
            return await self._say("enter", who)
        except BaseException:
            if new:
                self._entered.pop(who, None)
            raise

    async def leave(self, room: str, user: str, connection: str) -> bool:
        who = (room, user, connection)
        self._entered.pop(who, None)
        return await self._say("leave", who)

    async def present(self, room: str) -> list[str]:
        return sorted(await self._calls.call("present", room, done="read"))

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        return bool(await self._calls.call("hold", lease, holder, seconds))

    async def let_go(self, lease: str, holder: str) -> None:
        await self._calls.call("let go", lease, holder)

    async def expire(self, stream: str, seconds: float | None) -> None:
        await self._calls.call("expire", *_begun(stream), "" if seconds is None else seconds)

    async def sweep(self) -> None:
        after, seen = 0, _PAGE
        while seen == _PAGE:
            seen, stay = await self._calls.call("sweep", after, _PAGE)
            after += stay

    async def check(self) -> None:
        await self._calls.call("check", self._number())

    async def close(self) -> None:
        self._refresher.cancel()
        leaving = [self._say("leave", who) for who in self._entered]
        await asyncio.gather(self._refresher, *leaving, self._calls.close(), return_exceptions=True)
        await self._following.close()
        await self._link.close()

    def _number(self) -> str:
        """A name for a call, as no other call has."""
        return f"~{self._process}:{next(self._numbers)}"

    def _look(self, stream: str) -> "asyncio.Future[Any]":
        return self._calls.send("look", *_begun(stream), self._process, self._present)

    async def _read(self, stream: str, after: int, limit: int) -> tuple[str, int, list[Event]]:
        first = min(max(after, 0) + 1, 2**63)  # Redis takes no larger number
        answer = await self._calls.call("read", stream, f"{first}-0", limit, done="read")
        return answer[0], answer[1], events_of(answer)

    async def _say(self, script: str, who: tuple[str, str, str]) -> bool:
        room, user, _ = who
        return bool(await self._calls.call(script, *who, f"{len(room)}:{room}:{user}", self._number(), self._present))

    async def _refresh(self) -> None:
        """Says again who is present and what is read, so that it is forgotten only when this process is gone."""
        while True:
            await asyncio.sleep(self._present / 3)
            self._following.look_again()
            everybody = list(self._entered)
            for first in range(0, len(everybody), _PAGE):
                still = [who for who in everybody[first : first + _PAGE] if who in self._entered]
                await asyncio.gather(*(self._say("enter", who) for who in still), return_exceptions=True)


def _begun(stream: str) -> tuple[Argument, ...]:
    """The arguments by which a stream begins that is not there."""
    return stream, secrets.token_hex(8), _UNCLAIMED


class _Link:
    """The connection by which calls are made; made anew when it breaks."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._connection: AbstractConnection | None = None

    async def ask(self, calls: Sequence[RedisCall]) -> list[Any]:
        """The answer to each, an OSError where there is none: the call may have been heard all the same."""
        answers: list[Any] = []
        try:
            async with asyncio.timeout(_ANSWER):
                connection = self._connection or await self._connect()
                commands = [("EVALSHA", DIGESTS[call.script], 0, *call.arguments) for call in calls]
                await connection.send_packed_command(connection.pack_commands(commands))
                while len(answers) < len(calls):
                    answers.append(await _answer(connection))
        except (RedisError, OSError, ValueError) as error:  # ValueError: what came was not of Redis
            await self.close()
            fault = OSError(str(error) or f"Redis has not answered for {_ANSWER:g} s")
            answers += [fault] * (len(calls) - len(answers))
        return answers

    async def close(self) -> None:
        if self._connection:
            await self._connection.disconnect(nowait=True)
            self._connection = None

    async def _connect(self) -> AbstractConnection:
        """With the scripts that Redis may have forgotten."""
        self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        await self._connection.connect()
        loading = [("SCRIPT", "LOAD", script) for script in SCRIPTS.values()]
        await self._connection.send_packed_command(self._connection.pack_commands(loading))
        for _ in loading:
            await self._connection.read_response()
        return self._connection


async def _answer(connection: AbstractConnection) -> Any:
    """An OSError when Redis refuses: its disk or its memory is full, it is loading, or no longer the master."""
    try:
        return await connection.read_response(timeout=math.inf)
    except NoScriptError:
        raise  # somebody flushed the scripts; the next connection brings them again
    except ResponseError as error:
        return OSError(str(error).partition(" script: ")[0])  # which line of ours it was interests nobody


class _Channels:
    """The connection by which this process hears; a channel for each stream, its name after the prefix."""

    def __init__(self, pool: ConnectionPool, prefix: str) -> None:
        self._pool, self._prefix = pool, prefix
        self._connection: AbstractConnection | None = None

    async def open(self) -> None:
        try:
            connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            async with asyncio.timeout(_ANSWER):
                await connection.connect()  # type: ignore[no-untyped-call]
        except RedisError as error:
            raise OSError(str(error)) from None
        self._connection = connection

    async def change(self, add: set[str], drop: set[str]) -> None:
        for command, streams in (("SUBSCRIBE", add), ("UNSUBSCRIBE", drop)):
            if streams:
                await self._send(command, *(self._prefix + stream for stream in streams))
        if not add and not drop:
            await self._send("PING")

    async def next(self) -> tuple[str, str, str]:
        assert self._connection
        try:
            said = await self._connection.read_response(timeout=math.inf)
        except RedisError as error:
            raise OSError(str(error)) from None
        if isinstance(said, list) and len(said) == 3:
            return said[0], str(said[1]).removeprefix(self._prefix), str(said[2])
        return "", "", ""  # the answer to a ping

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
