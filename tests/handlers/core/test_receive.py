"""Reading in pull style: order, how many wait and may wait, the end with the connection, and who cancels what."""

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


async def test_an_inbox_gives_messages_in_their_order_and_says_how_many_wait() -> None:
    inbox = ReceiveQueue(10, 1000)
    assert inbox.receive_nowait() is None
    assert [inbox.put(message) for message in ("a", b"b", "c")] == [True] * 3
    assert inbox.pending() == 3
    assert [await inbox.receive(), inbox.receive_nowait(), await inbox.receive()] == ["a", b"b", "c"]
    assert inbox.pending() == 0


async def test_an_inbox_is_bounded_in_messages_and_in_bytes_and_has_room_again_when_read() -> None:
    inbox = ReceiveQueue(2, 10)
    assert [inbox.put(text) for text in ("a", "b", "c")] == [True, True, False]
    assert inbox.receive_nowait() == "a"
    assert [inbox.put(text) for text in ("0123456789", "012345678")] == [False, True]
    assert [inbox.receive_nowait(), inbox.receive_nowait(), inbox.pending()] == ["b", "012345678", 0]
    assert inbox.put(bytes(1000)), "one that comes alone may be larger"


async def test_an_ended_inbox_gives_what_waits_and_then_ends_for_everybody_who_waits() -> None:
    inbox = ReceiveQueue(10, 1000)
    waiting = [asyncio.create_task(inbox.receive()) for _ in range(3)]
    await asyncio.sleep(0)
    inbox.put("last")
    inbox.end()
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [end for end in ended if not isinstance(end, ConnectionEnded)] == ["last"]
    for _ in range(2):
        with pytest.raises(ConnectionEnded):
            inbox.receive_nowait()


async def test_a_receive_that_is_cancelled_loses_nothing() -> None:
    """Also one that is cancelled at the moment when a message comes."""
    inbox = ReceiveQueue(10, 1000)
    for _ in range(2):
        waiting = asyncio.create_task(inbox.receive())
        await asyncio.sleep(0)
        inbox.put("a")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert inbox.receive_nowait() == "a"


class Talker(PullWebSocketHandler):
    """Does what it is asked in the query, and notes what came of it."""

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

    async def talk_deaf(self) -> None:
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
    """A server with a Talker that has these members; the server's address, and the notes that are taken."""
    notes: list[Any] = []
    async with serving(folder, (r"/talk", type("NotingTalker", (Talker,), {"notes": notes, **members}))) as url:
        yield url, notes


async def talk(url: str, how: str) -> ClientConnection:
    return await connect(f"{url}/talk?how={how}")


async def test_an_iteration_ends_with_the_connection_once_all_was_received(tmp_path: Path) -> None:
    """Were ``run`` spawned like other work of a socket, it would be cancelled before it could end."""
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


async def test_a_receive_that_waits_ends_with_the_connection(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, notes):
        await (await talk(url, "waiting")).close()
        await until(lambda: notes == ["ended"])


async def test_a_talk_that_does_not_end_by_itself_is_ended(tmp_path: Path) -> None:
    """Else each such connection would leave its handler in memory for ever."""
    async with talking(tmp_path, close_grace=0) as (url, notes):
        socket = await talk(url, "deaf")
        await socket.send("a")
        await until(lambda: notes == ["a"])
        await socket.close()
        await until(lambda: notes == ["a", "cancelled"])


async def test_a_talk_that_is_done_closes_the_socket(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, notes):
        socket = await talk(url, "twice")
        await socket.send("a")
        await socket.send("b")
        assert (await closed(socket))[0] == 1000
        assert notes == ["a", 1, "b", None]


async def test_a_talk_that_fails_closes_the_socket_as_our_fault(tmp_path: Path) -> None:
    async with talking(tmp_path) as (url, _):
        socket = await talk(url, "wrongly")
        await socket.send("a")
        assert (await closed(socket))[0] == 1011
