"""Tests of pull sockets: the order of messages, the limits of the queue, the end of a connection, and cancellation."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection

from handlers.core.receive import ConnectionEnded, PullWebSocketHandler, ReceiveQueue
from tests.support.here import closed, connect, serving
from tests.support.running import until


async def test_a_queue_returns_messages_in_order_and_counts_the_waiting() -> None:
    queue = ReceiveQueue(10, 1000)
    assert queue.receive_nowait() is None
    assert [queue.put(message) for message in ("a", b"b", "c")] == [True] * 3
    assert queue.pending() == 3
    assert [await queue.receive(), queue.receive_nowait(), await queue.receive()] == ["a", b"b", "c"]
    assert queue.pending() == 0


async def test_a_queue_is_limited_in_messages_and_bytes_until_it_is_read() -> None:
    queue = ReceiveQueue(2, 10)
    assert [queue.put(text) for text in ("a", "b", "c")] == [True, True, False]
    assert queue.receive_nowait() == "a"
    assert [queue.put(text) for text in ("0123456789", "012345678")] == [False, True]
    assert [queue.receive_nowait(), queue.receive_nowait(), queue.pending()] == ["b", "012345678", 0]
    assert queue.put(bytes(1000)), "a message that waits alone may be larger"


async def test_an_ended_queue_returns_its_messages_and_then_ends_for_all_receivers() -> None:
    queue = ReceiveQueue(10, 1000)
    waiting = [asyncio.create_task(queue.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.put("last")
    queue.end()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [end for end in ended if not isinstance(end, ConnectionEnded)] == ["last"]
    for _ in range(2):
        with pytest.raises(ConnectionEnded):
            queue.receive_nowait()


async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    """A receive that is cancelled at the moment when a message arrives loses nothing either."""
    queue = ReceiveQueue(10, 1000)
    for _ in range(2):
        waiting = asyncio.create_task(queue.receive())
        await asyncio.sleep(0)
        queue.put("a")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert queue.receive_nowait() == "a"


class Talker(PullWebSocketHandler):
    """A pull socket that runs the method named in the query, and records the results in ``notes``."""

    scope = "chat"
    notes: list[Any]

    async def run(self) -> None:
        await getattr(self, f"talk_{self.get_query_argument('how')}")()

    async def talk_each(self) -> None:
        self.notes += [message async for message in self.messages()]
        self.notes.append("ended")

    async def talk_waiting(self) -> None:
        try:
            await self.receive()
        except ConnectionEnded:
            self.notes.append("ended")
            raise

    async def talk_ignoring_the_close(self) -> None:
        self.notes.append(await self.receive())
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.notes.append("cancelled")
            raise

    async def talk_twice(self) -> None:
        first = await self.receive()
        await until(self.pending)
        self.notes += [first, self.pending(), self.receive_nowait(), self.receive_nowait()]

    async def talk_wrongly(self) -> None:
        await self.receive()
        raise LookupError("a fault of ours")


@asynccontextmanager
async def talking(folder: Path, **members: Any) -> AsyncIterator[tuple[str, list[Any]]]:
    """Starts a server with a Talker that has these class members. Yields its URL and the list of notes."""
    notes: list[Any] = []
    async with serving(folder, (r"/talk", type("NotingTalker", (Talker,), {"notes": notes, **members}))) as url:
        yield url, notes


async def talk(url: str, how: str) -> ClientConnection:
    return await connect(f"{url}/talk?how={how}")


async def test_an_iteration_ends_after_the_close_and_the_last_message(tmp_path: Path) -> None:
    """If ``run`` were a task of the socket's ``spawn``, the close would cancel it before it could end by itself."""
    async with talking(tmp_path) as (url, notes):
        socket = await talk(url, "each")
        for message in ("a", b"b", "c"):
            await socket.send(message)
        await socket.close()
        await until(lambda: notes == ["a", b"b", "c", "ended"])
        lost = await talk(url, "each")
        await lost.send("d")
        lost.transport.abort()
        await until(lambda: notes[4:] in (["d", "ended"], ["ended"]))


async def test_a_waiting_receive_ends_when_the_connection_closes(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, notes):
        await (await talk(url, "waiting")).close()
        await until(lambda: notes == ["ended"])


async def test_a_run_that_does_not_end_after_the_close_is_cancelled(tmp_path: Path) -> None:
    """Otherwise, each such connection would leave its handler in memory for ever."""
    async with talking(tmp_path, close_grace=0) as (url, notes):
        socket = await talk(url, "ignoring_the_close")
        await socket.send("a")
        await until(lambda: notes == ["a"])
        await socket.close()
        await until(lambda: notes == ["a", "cancelled"])


async def test_a_run_that_returns_closes_the_socket(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, notes):
        socket = await talk(url, "twice")
        await socket.send("a")
        await socket.send("b")
        assert (await closed(socket))[0] == 1000
        assert notes == ["a", 1, "b", None]


async def test_a_run_that_fails_closes_the_socket_with_an_internal_error(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, _):
        socket = await talk(url, "wrongly")
        await socket.send("a")
        assert (await closed(socket))[0] == 1011
