"""The example sockets over real connections: echo, broadcast and countdown, with slow clients."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from handlers import demos
from handlers.demos import MAX_BYTES
from tests.support import here
from tests.support.client import narrow
from tests.support.here import closed
from tests.support.running import Server, Start, until


async def connect(server: Server, path: str, name: str = "alice", **options: Any) -> ClientConnection:
    headers = {"Authorization": f"Bearer {server.token(name, 'chat')}"}
    url = server.ws + path
    return await websockets.connect(
        url, additional_headers=headers, compression=None, proxy=None, max_size=None, **options
    )


async def heard(socket: ClientConnection, count: int) -> list[str | bytes]:
    async with asyncio.timeout(60):
        return [await socket.recv() for _ in range(count)]


@pytest.mark.parametrize("path", ["/ws/echo", "/ws/broadcast", "/ws/countdown"])
async def test_a_token_without_the_scope_chat_is_refused_before_the_upgrade(server: Server, path: str) -> None:
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {server.token()}"}, 403)):
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(server.ws + path, additional_headers=headers, proxy=None)
        assert caught.value.response.status_code == status


async def test_echo_returns_text_as_text_and_bytes_as_bytes_in_order(server: Server) -> None:
    said: list[str | bytes] = ["", "a", b"", b"\0\xff", "\u263a" * 100_000, bytes(1 << 20)]
    said += [str(number) for number in range(500)]
    async with await connect(server, "/ws/echo") as socket:
        for message in said:
            await socket.send(message)
        assert await heard(socket, len(said)) == said


async def test_a_client_that_sends_without_reading_is_closed_with_the_reason(server: Server) -> None:
    """A client of /ws/echo that does not read. Without the limit of the inbox it would never be closed for its waiting
    messages.
    """
    before = server.metric("sluice_refusals_total", reason="inbox")
    deaf = await connect(server, "/ws/echo", sock=narrow(server), max_queue=1)
    flood = asyncio.create_task(_flood(deaf))
    await until(lambda: server.metric("sluice_refusals_total", reason="inbox") == before + 1)
    code, reason = await closed_after_reading(deaf)
    await flood
    assert code in (4429, 1006), "1006 for one that takes its five seconds over what waits before"
    assert code == 1006 or "wait for answers" in reason


async def _flood(socket: ClientConnection) -> None:
    try:
        while True:
            await socket.send(bytes(1 << 18))
    except websockets.ConnectionClosed:
        return


async def closed_after_reading(socket: ClientConnection) -> tuple[int, str]:
    try:
        while True:
            await asyncio.wait_for(socket.recv(), 60)
    except websockets.ConnectionClosed:
        return await closed(socket)


async def test_a_broadcast_reaches_connected_clients_only(server: Server) -> None:
    async with await connect(server, "/ws/broadcast") as alice, await connect(server, "/ws/broadcast", "bert") as bert:
        gone = await connect(server, "/ws/broadcast", "carl")
        await alice.send("hello")
        assert [await heard(each, 1) for each in (alice, bert, gone)] == [["hello"]] * 3
        await gone.close()
        for message in ("one", b"two", "three"):
            await bert.send(message)
        assert [await heard(each, 3) for each in (alice, bert)] == [["one", b"two", "three"]] * 2


@pytest.mark.chaos
async def test_a_slow_reader_of_broadcast_does_not_affect_others(start: Start) -> None:
    """A client that does not read for a while. Without the limit of the outbox it would never be closed. It answers no
    pings either, and must not be closed for that.
    """
    server = start(ping_interval=600)
    slow = await connect(server, "/ws/broadcast", "slow", sock=narrow(server), max_queue=1, ping_interval=None)
    async with await connect(server, "/ws/broadcast") as alice, await connect(server, "/ws/broadcast", "bert") as bert:
        for number in range(2000):
            message = str(number).ljust(MAX_BYTES // 2)
            await alice.send(message)
            assert await heard(alice, 1) == await heard(bert, 1) == [message]
            if number % 20 == 0 and server.metric("sluice_refusals_total", reason="slow_reader"):
                break
        assert server.metric("sluice_refusals_total", reason="slow_reader") == 1
        assert (await closed_after_reading(slow))[0] in (4508, 1006)


async def test_a_broadcast_that_is_too_long_is_sent_to_no_client(server: Server) -> None:
    """Without the limit, a message of 5 MiB would fill the outboxes of all clients, which would then be closed."""
    async with await connect(server, "/ws/broadcast") as alice, await connect(server, "/ws/broadcast", "bert") as bert:
        await bert.send(bytes(5 << 20))
        assert (await closed(bert))[0] == 1009
        await alice.send("still here")
        assert await heard(alice, 1) == ["still here"]


async def test_countdown_counts_ten_and_closes(server: Server) -> None:
    started = time.monotonic()
    async with await connect(server, "/ws/countdown") as socket:
        assert await heard(socket, 10) == [str(number) for number in range(10, 0, -1)]
        assert (await closed(socket))[0] == 1000
    assert time.monotonic() - started > 4, "they come one after the other"


async def test_clients_that_left_broadcast_are_forgotten(tmp_path: Path) -> None:
    (everybody,) = [route[2]["everybody"] for route in demos.routes if len(route) == 3]
    async with here.serving(tmp_path) as url:
        sockets = [await here.connect(f"{url}/ws/broadcast") for _ in range(3)]
        await until(lambda: len(everybody) == 3)
        await sockets[0].close()
        sockets[1].transport.abort()
        await until(lambda: len(everybody) == 1)
    await until(lambda: not everybody)
