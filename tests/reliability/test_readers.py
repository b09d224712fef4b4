"""Peers that do not do their part: they do not read, do not answer, or send a byte now and then. Each costs little, is
ended in time, and delays nobody else."""

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
# A message of 2 KB with an answer of 6: what it is refused for is quoted, and written in escapes.
LONG = frame(TEXT, json.dumps({"type": "cancel", "\U0001f600" * 500: 1}, ensure_ascii=False).encode())
TOO_SLOW = closing(4508, "client reads too slowly (outbox); reconnect")


@pytest.fixture(autouse=True)
def files() -> Iterator[None]:
    """As many open files as the system allows, for this process and the servers that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def connect(server: Server, name: str = "deaf", ttl: float = 600) -> socket:
    """A socket that asks for an upgrade and reads nothing, not even the answer to that."""
    deaf = thin(server)
    deaf.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(deaf, upgrade("/ws/images", server.token(name, ttl=ttl)))
    return deaf


async def ask_until_closed(server: Server, deaf: list[socket], client: Client, at_once: int) -> None:
    """Has each ask for more and more answers, at the pace of a healthy client, until all are closed as too slow."""
    loop = asyncio.get_running_loop()
    slow = server.metric("sluice_refusals_total", reason="slow_reader") + len(deaf)
    for turn in range(50):
        for one in deaf:
            with suppress(ConnectionError):
                await loop.sock_sendall(one, LONG * at_once)
        await client.slice(f"turn-{turn}-{slow}", small())
        await client.wait_for("result")
        if server.metric("sluice_refusals_total", reason="slow_reader") == slow:
            return
    # What was sent last may not have been looked at yet.
    await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") == slow)


async def test_a_reader_that_stops_reading_costs_at_most_8_mib_and_is_closed_with_4508(start: Start) -> None:
    """With the default settings. Measured: 5 MiB. Without max_write_buffer_size it is never closed. The close comes
    last, after all that was said before it, for which there are five seconds: who stands still then, tries again."""
    server = start()
    await healthy(server)
    before = Cost.of(server)

    async def attempt() -> float | None:
        began = time.monotonic()
        async with await Client.connect(server) as client:
            with await connect(server) as deaf:
                await ask_until_closed(server, [deaf], client, 64)
                assert Cost.of(server).memory - before.memory < 8 * MIB
                return None if await reads_up_to(deaf, TOO_SLOW) else time.monotonic() - began

    await tried(5, attempt)


async def reads_up_to(deaf: socket, last: bytes) -> bool:
    """Whether that comes before the end."""
    got = bytearray()
    with suppress(ConnectionError):
        while data := await asyncio.wait_for(asyncio.get_running_loop().sock_recv(deaf, MIB), GUARD):
            got += data
            if got.endswith(last):
                return True
    return False


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
async def test_many_that_stop_reading_at_once_delay_no_healthy_client(start: Start, count: int) -> None:
    """Measured for 1,000: all closed within 8 s, at 116 MiB; a slice of the healthy client's takes 2 s at worst, amid
    8,000 messages of the others. Without the bound they are never closed."""
    outbox = 1 << 16
    server = start(outbox=outbox, connections_per_user=count, connections_per_address=2 * count)
    await healthy(server)
    async with await Client.connect(server) as client:
        before = Cost.of(server)
        with ExitStack() as stack:
            deaf = [stack.enter_context(await connect(server)) for _ in range(count)]
            await ask_until_closed(server, deaf, client, 8)
            assert Cost.of(server).memory - before.memory < count * 8 * outbox
        await until(lambda: server.metric("sluice_connections") == 1)


async def test_a_reader_that_stops_amid_its_results_costs_few_of_them_and_loses_none(start: Start) -> None:
    """20 MB of results wait in the media store, not in memory. Without stall_timeout the reader is never closed as too
    slow, for its outbox never fills. When the results do not wait for each other, 8 MiB are passed. The worker is
    held until all slices are accepted: of one that is closed none are."""
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
    async with await Client.connect(server) as again:
        await again.send("resume", session=client.hello["session"], epoch=client.hello["epoch"], after=0)
        assert (await again.wait_for("resumed"))["recovered"] is True
        assert sorted(int(end["id"]) for end in await again.ends(20)) == list(range(20))


def pad(length: int) -> bytes:
    """A message whose answer has as many bytes more as ``length`` is greater."""
    return frame(TEXT, json.dumps({"type": "cancel", "!" * length: 1}).encode())


async def brimful(server: Server, outbox: int) -> socket:
    """A socket that reads nothing, and for which all but one byte of the outbox is taken."""
    async with await Raw.upgraded(server, server.token("deaf")) as raw:
        raw.send(pad(100), LONG)
        base, long = [len(answer(*await raw.frame())) for _ in range(2)]
    loop = asyncio.get_running_loop()
    deaf = await connect(server)
    while not (await loop.sock_recv(deaf, 1)).startswith(b"\x81"):
        pass  # the answer to the upgrade, then the head of the first message
    left = int.from_bytes((await loop.sock_recv(deaf, 3))[1:])
    while left:
        left -= len(await loop.sock_recv(deaf, left))

    said, asked = 0, server.metric("sluice_refusals_total", reason="bad_message")
    while room := outbox - 1 - (said - await held_by_the_system(deaf)):
        last = room <= base + 350
        message, size = (LONG, long) if room > 2 * long else (pad(room - base + 100 if last else 200), base + 100)
        count = max(1, room // size // 2)
        await loop.sock_sendall(deaf, message * count)
        said, asked = said + (room if last else size * count), asked + count
        await until(lambda so_far=asked: server.metric("sluice_refusals_total", reason="bad_message") == so_far)
    assert not server.metric("sluice_refusals_total", reason="slow_reader")
    return deaf


async def held_by_the_system(deaf: socket) -> int:
    """Bytes that the server has handed over to the system and the socket has not read, once that stands still: what is
    not yet acknowledged is counted on both sides."""
    port = f":{deaf.getsockname()[1]:04X}"
    seen = [-1]

    def stands_still() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
        queues = [row[4].split(":") for row in rows if port in row[1] + row[2]]
        seen.append(sum(int(size, 16) for queue in queues for size in queue))
        return seen[-30:] == [seen[-1]] * 30

    await until(stands_still)
    return seen[-1]


async def test_a_reader_with_a_full_outbox_does_not_keep_the_server_from_its_end(start: Start) -> None:
    """Unless there is always room for control frames (handlers/core/rfc6455.py), the close raises and the drain ends
    there: everybody else is dropped, exit status 1. So do pings: such a reader would never be found silent."""
    server = start(outbox=100_000)
    with await brimful(server, 100_000):
        async with await Client.connect(server) as client:
            server.process.send_signal(signal.SIGTERM)
            assert await client.closed() == 1012
        assert await asyncio.to_thread(server.ended) == 0


async def test_silent_peers_are_pinged_once_and_closed_and_one_that_answers_stays(start: Start) -> None:
    """A ping after ping_interval, the close pong_timeout later. Without pings the silent ones stay until they leave.
    Tornado's close says 1000, which is a goodbye: a laptop that wakes up would not come back for its results."""
    # So long that the one that answers does so in time, however busy the machine.
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


def slow(token: str) -> list[bytes]:
    """The beginnings of requests that never end; what is dripped after each of them is more of the same."""
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
async def test_slow_requests_are_ended_in_time_and_a_healthy_client_is_answered_meanwhile(
    start: Start, count: int
) -> None:
    """Each sends another byte whenever the healthy client has been answered, so that no wait for a byte is long.
    Measured for 1,000: the client is answered within 0.2 s. Without header_timeout and body_timeout they stay."""
    server = start(header_timeout=6, body_timeout=6)
    beginnings = slow(server.token())
    async with await Client.connect(server) as client:
        with ExitStack() as stack:
            peers = crowd(server, count, stack)
            for number, peer in enumerate(peers):
                peer.sendall(beginnings[number % len(beginnings)])
                peer.setblocking(False)
            turn, end = 0, time.monotonic() + 6 + 2 * GUARD
            while peers := [peer for peer in peers if drip(peer)]:
                await client.slice(str(turn := turn + 1), small())
                await client.wait_for("result")
                assert time.monotonic() < end, f"{len(peers)} are let go on for ever"


def crowd(server: Server, count: int, stack: ExitStack) -> list[socket]:
    """Connections that say nothing yet; a request now and then sees to it that the server has accepted them."""
    peers = []
    while len(peers) < count:
        peers += [stack.enter_context(create_connection(("127.0.0.1", server.port))) for _ in range(100)]
        assert httpx.get(f"{server.url}/healthz", timeout=GUARD).status_code == 200
    return peers


def drip(peer: socket) -> bool:
    """One byte more; whether the server still takes it."""
    try:
        peer.send(b"x")
        return bool(peer.recv(1 << 16))
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


@pytest.mark.parametrize("path", ["/nowhere", "/", "/ws/images", "/healthz"])
async def test_a_body_that_nobody_has_asked_for_is_not_kept(server: Server, path: str) -> None:
    """From strangers, without a token. Measured with max_body_size=16 MiB: that much for each, for a minute."""
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


async def test_more_peers_than_the_usual_limit_of_open_files_are_no_hindrance(start: Start) -> None:
    """Most shells start a process with 1,024. Without more, nobody else comes in, and the loop spins at accept()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    server = start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        crowd(server, 1200, stack)
        await healthy(server)
