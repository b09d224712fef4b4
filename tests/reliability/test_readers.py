"""Tests clients that do not read, do not answer, or send single bytes slowly. Each must cost little memory, is closed
in time, and delays no other client.
"""

import asyncio
import json
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from socket import create_connection, socket

import httpx
import pytest

from tests.reliability.harness import Cost, healthy, tried
from tests.reliability.raw import CLOSE, PING, TEXT, Raw, answer, closing, frame, thin
from tests.support.client import Client, narrow, upgrade
from tests.support.pictures import encoded, photograph, small
from tests.support.running import GUARD, Server, Start, until

pytestmark = pytest.mark.chaos

MIB = 1 << 20
# A message of 2 KB whose answer has 6 KB. The error quotes the unknown member, and JSON escapes make its text longer.
LONG = frame(TEXT, json.dumps({"type": "cancel", "\U0001f600" * 500: 1}, ensure_ascii=False).encode())
TOO_SLOW = closing(4508, "client reads too slowly (outbox); reconnect")


@pytest.fixture(autouse=True)
def many_open_files() -> Iterator[None]:
    """Allows as many open files as the system permits, for this process and for the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(server: Server, name: str = "unread", ttl: float = 600) -> socket:
    """Returns a socket that requests an upgrade and reads nothing, not even the response to the upgrade."""
    unread = thin(server)
    unread.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(unread, upgrade("/ws/images", server.token(name, ttl=ttl)))
    return unread


async def request_until_closed(server: Server, unread: list[socket], client: Client, at_once: int) -> None:
    """Requests answers on all sockets, without reading them, until the server has closed all of them as slow readers.

    Between two rounds, a healthy client sends a slice and receives its result.
    """
    loop = asyncio.get_running_loop()
    expected = server.metric("sluice_refusals_total", reason="slow_reader") + len(unread)
    for turn in range(50):
        for connection in unread:
            with suppress(ConnectionError):
                await loop.sock_sendall(connection, LONG * at_once)
        await client.slice(f"turn-{turn}-{expected}", small())
        await client.wait_for("result")
        if server.metric("sluice_refusals_total", reason="slow_reader") == expected:
            return
    # The server may not have processed the last messages yet.
    await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") == expected)


async def test_a_client_that_stops_reading_costs_at_most_8_mib_and_is_closed(start: Start) -> None:
    """Tests the default settings. Measured: 5 MiB. Without max_write_buffer_size, the server never closes the client.

    The close frame follows all earlier messages, and the server waits five seconds for the client to read them. A test
    that was paused for longer tries again.
    """
    server = start()
    await healthy(server)
    before = Cost.of(server)

    async def attempt() -> float | None:
        started = time.monotonic()
        async with await Client.connect(server) as client:
            with await connect(server) as unread:
                await request_until_closed(server, [unread], client, 64)
                assert Cost.of(server).memory - before.memory < 8 * MIB
                return None if await reads_up_to(unread, TOO_SLOW) else time.monotonic() - started

    await tried(5, attempt)


async def reads_up_to(unread: socket, last: bytes) -> bool:
    """Returns whether ``last`` is received before the connection ends."""
    got = bytearray()
    with suppress(ConnectionError):
        while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(unread, MIB), GUARD):
            got += data
            if got.endswith(last):
                return True
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_many_clients_that_stop_reading_delay_no_healthy_client(start: Start, count: int) -> None:
    """Measured for 1,000 clients: all are closed within 8 s, with 116 MiB of memory. In this time the server handles
    8,000 messages of these clients, and a slice of the healthy client takes 2 s at most.

    Without the limit of the outbox, the clients are never closed.
    """
    outbox = 1 << 16
    server = start(outbox=outbox, connections_per_user=count, connections_per_address=2 * count)
    await healthy(server)
    async with await Client.connect(server) as client:
        before = Cost.of(server)
        with ExitStack() as stack:
            unread = [stack.enter_context(await connect(server)) for _ in range(count)]
            await request_until_closed(server, unread, client, 8)
            assert Cost.of(server).memory - before.memory < count * 8 * outbox
        await until(lambda: server.metric("sluice_connections") == 1)


async def test_a_client_that_stops_reading_its_results_loses_none(start: Start) -> None:
    """20 MB of results wait in the media store, not in memory.

    Without stall_timeout, this reader is never closed, because its outbox never becomes full. If the server did not
    wait for each result to be sent, it would use more than 8 MiB. The worker is held until all slices are accepted,
    because the server accepts no more slices from a client that it has closed.
    """
    server = start(workers=1, stall_timeout=1, slice_timeout=2 * GUARD, session_grace=2 * GUARD)
    await healthy(server)
    before = Cost.of(server)
    client = await Client.connect(server, sock=narrow(server), max_queue=1)
    async with await Client.connect(server, "holder") as holder:
        await holder.plug()
        for number in range(20):
            await client.slice(str(number), encoded(photograph()), number, respond="bytes", format="png", zoom=1.5)
        await client.wait_for("accepted", id="19")
    await until(lambda: server.metric("sluice_slices_total", outcome="done") == 21)
    assert Cost.of(server).memory - before.memory < 8 * MIB
    await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") == 1)
    client.abort()
    async with await Client.connect(server) as reconnected:
        await reconnected.send("resume", session=client.hello["session"], epoch=client.hello["epoch"], after=0)
        assert (await reconnected.wait_for("resumed"))["recovered"] is True
        assert sorted(int(end["id"]) for end in await reconnected.ends(20)) == list(range(20))


def pad(length: int) -> bytes:
    """Returns a message whose answer grows by one byte for each additional byte of ``length``."""
    return frame(TEXT, json.dumps({"type": "cancel", "!" * length: 1}).encode())


async def with_full_outbox(server: Server, outbox: int) -> socket:
    """Returns a socket that reads nothing. All bytes of its outbox are in use, except one."""
    async with await Raw.upgraded(server, server.token("unread")) as raw:
        raw.send(pad(100), LONG)
        base, long = [len(answer(*await raw.frame())) for _ in range(2)]
    loop = asyncio.get_running_loop()
    unread = await connect(server)
    while not (await loop.sock_recv(unread, 1)).startswith(b"\x81"):
        pass  # skips the response to the upgrade, up to the first byte of the first message
    left = int.from_bytes((await loop.sock_recv(unread, 3))[1:])
    while left:
        left -= len(await loop.sock_recv(unread, left))

    sent, requests = 0, server.metric("sluice_refusals_total", reason="bad_message")
    while room := outbox - 1 - (sent - await bytes_in_the_system(unread)):
        last = room <= base + 350
        message, size = (LONG, long) if room > 2 * long else (pad(room - base + 100 if last else 200), base + 100)
        count = max(1, room // size // 2)
        await loop.sock_sendall(unread, message * count)
        sent, requests = sent + (room if last else size * count), requests + count
        await until(lambda so_far=requests: server.metric("sluice_refusals_total", reason="bad_message") == so_far)
    assert not server.metric("sluice_refusals_total", reason="slow_reader")
    return unread


async def bytes_in_the_system(unread: socket) -> int:
    """Returns how many bytes the server has passed to the system and the socket has not read.

    Waits until the number is stable, because the system counts bytes without an acknowledgement on both sides.
    """
    port = f":{unread.getsockname()[1]:04X}"
    seen = [-1]

    def is_stable() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        queues = [row[4].split(":") for row in rows if port in row[1] + row[2]]
        seen.append(sum(int(size, 16) for queue in queues for size in queue))
        return seen[-30:] == [seen[-1]] * 30

    await until(is_stable)
    return seen[-1]


async def test_a_client_with_a_full_outbox_does_not_block_the_shutdown(start: Start) -> None:
    """Control frames must always have room in the outbox (handlers/core/rfc6455.py).

    Without this room, the close raises an exception, which ends the graceful shutdown: all other clients are dropped,
    and the exit status is 1. Pings would raise too, so the server would never notice that such a reader is silent.
    """
    server = start(outbox=100_000)
    with await with_full_outbox(server, 100_000):
        async with await Client.connect(server) as client:
            server.process.send_signal(signal.SIGTERM)
            assert await client.closed() == 1012
        assert await asyncio.to_thread(server.ended) == 0


async def test_silent_clients_are_pinged_and_closed_and_an_answering_one_stays(start: Start) -> None:
    """The server sends a ping after ping_interval, and the close after pong_timeout more.

    Without pings, silent clients stay connected until they leave. Tornado's own close has the code 1000, which means a
    normal end. After this code, a laptop that wakes up would not reconnect to receive its results.
    """
    # The intervals are so long that the answering client can answer in time, even on a busy machine.
    server = start(ping_interval=10, pong_timeout=10, connections_per_user=60)
    async with await Client.connect(server, "bob") as answering, AsyncExitStack() as stack:
        silent = [await stack.enter_async_context(await Raw.upgraded(server)) for _ in range(50)]
        for raw in silent:
            assert await raw.frame() == (PING, b"")
            assert await raw.frame() == (CLOSE, b"\x11\x38no pong in time (pong_timeout); reconnect")
            raw.send(frame(CLOSE))
            assert await raw.rest() == b""
        await until(lambda: server.metric("sluice_connections") == 1)
        await answering.slice("a", small())
        assert (await answering.wait_for("result"))["id"] == "a"


def unfinished_requests(token: str) -> list[bytes]:
    """Returns beginnings of requests that never end. The test then sends more bytes of the same part, one at a time."""
    form = f"Host: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 60000\r\n\r\n"
    return [
        b"",
        b"GE",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        f"POST /process HTTP/1.1\r\n{form}".encode(),
        f"POST /nowhere HTTP/1.1\r\n{form}".encode(),
        f"GET /ws/images HTTP/1.1\r\nUpgrade: websocket\r\n{form}".encode(),
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [200, pytest.param(1000, marks=pytest.mark.slow)])
async def test_slow_requests_are_closed_in_time_and_delay_no_healthy_client(start: Start, count: int) -> None:
    """Each client sends another byte after every answer to the healthy client, so the server never waits long for a
    byte.

    Measured for 1,000 clients: the healthy client is answered within 0.2 s. Without header_timeout and body_timeout,
    the slow clients stay connected.
    """
    server = start(header_timeout=6, body_timeout=6)
    beginnings = unfinished_requests(server.token())
    async with await Client.connect(server) as client:
        with ExitStack() as stack:
            peers = connect_many(server, count, stack)
            for number, peer in enumerate(peers):
                peer.sendall(beginnings[number % len(beginnings)])
                peer.setblocking(False)
            turn, end = 0, time.monotonic() + 6 + 2 * GUARD
            while peers := [peer for peer in peers if send_byte(peer)]:
                await client.slice(str(turn := turn + 1), small())
                await client.wait_for("result")
                assert time.monotonic() < end, f"{len(peers)} are never closed"


def connect_many(server: Server, count: int, stack: ExitStack) -> list[socket]:
    """Opens connections that send nothing yet. A request after every 100 connections waits until the server has
    accepted them.
    """
    peers = []
    while len(peers) < count:
        peers += [stack.enter_context(create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        assert httpx.get(f"{server.url}/healthz", timeout=GUARD).status_code == 200
    return peers


def send_byte(peer: socket) -> bool:
    """Sends one more byte, and returns whether the server still keeps the connection open."""
    try:
        peer.send(b"x")
        return bool(peer.recv(1 << 16))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@pytest.mark.parametrize("path", ["/nowhere", "/", "/ws/images", "/healthz"])
async def test_a_body_without_an_endpoint_for_it_is_not_stored(server: Server, path: str) -> None:
    """The client has no token. With max_body_size=16 MiB, the server stored 16 MiB for each such client, for one
    minute.
    """
    await healthy(server)
    before = Cost.of(server)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {16 * MIB}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(8):
            peer = stack.enter_context(create_connection(("127.0.0.1", server.port)))
            with suppress(ConnectionError):
                peer.sendall(head + bytes(16 * MIB - 1))
        await healthy(server)
        assert Cost.of(server).memory - before.memory < 16 * MIB


async def test_the_server_accepts_more_clients_than_the_usual_limit_of_open_files(start: Start) -> None:
    """Most shells start a process with a limit of 1,024 open files.

    If the server did not raise this limit, no further client could connect, and the event loop would repeat accept()
    without a pause.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    server = start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        connect_many(server, 1200, stack)
        await healthy(server)
