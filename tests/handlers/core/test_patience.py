"""Whoever keeps the server waiting is let go: for headers, for a body, for a pong."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
import websockets

from tests.support.client import Client, upgrade
from tests.support.pictures import small
from tests.support.running import Server, Start, until


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for nothing longer than a fifth of a second. We may take longer to ask it."""
    running = Server(tmp_path_factory.mktemp("hasty"), header_timeout=0.2, body_timeout=0.2)
    yield running
    running.stop()


def said_until_the_end(server: Server, sent: bytes) -> bytes:
    said = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        while piece := connection.recv(65536):
            said += piece
    return said


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_asks_for_nothing_is_closed(hasty: Server, sent: bytes) -> None:
    assert said_until_the_end(hasty, sent) == b""


async def test_a_connection_that_asks_for_nothing_more_is_closed(hasty: Server) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    await until(lambda: said_until_the_end(hasty, asked).startswith(b"HTTP/1.1 200 OK"))


def test_a_body_that_does_not_come_is_not_waited_for(hasty: Server) -> None:
    head = f"POST /process HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.token()}\r\nContent-Length: 1000\r\n\r\n"
    assert said_until_the_end(hasty, head.encode() + b"some") == b""
    assert "Traceback" not in "".join(hasty.log)


@pytest.mark.chaos
async def test_a_socket_that_answers_no_ping_is_closed(start: Start) -> None:
    """One that does stays open, which is seen of one that lives through more than an interval and a time-out."""
    server = start(ping_interval=2, pong_timeout=2)
    for _ in range(5):  # we may be too busy to answer in time, though not each time
        if await _one_is_closed_and_the_other_stays(server):
            return
    raise AssertionError("one that answers is closed too")


async def _one_is_closed_and_the_other_stays(server: Server) -> bool:
    async with await Client.connect(server) as client:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
            silent.sendall(upgrade(token=server.token()))
            said = b""
            while b"no pong in time" not in said:
                said += await client_side(silent)
            assert (4408).to_bytes(2, "big") + b"no pong in time" in said
            assert b"\x89\x00" in said, "it was asked before"
        try:
            await client.slice("a", small())
            return bool((await client.wait_for("result"))["id"] == "a")
        except websockets.ConnectionClosed:
            return False


async def client_side(silent: socket.socket) -> bytes:
    """The next bytes, read without holding up those who do answer."""
    piece = await asyncio.to_thread(silent.recv, 65536)
    assert piece, "closed without a word"
    return piece
