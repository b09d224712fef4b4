"""Tests that the server closes a client that makes it wait too long for headers, for a body or for a pong."""

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
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits at most 0.2 s for headers and for a body. The test may need longer to send a request."""
    running = Server(tmp_path_factory.mktemp("impatient"), header_timeout=0.2, body_timeout=0.2)
    yield running
    running.stop()


def read_until_the_end(server: Server, sent: bytes) -> bytes:
    received = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection, suppress(ConnectionError):
        connection.sendall(sent)
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_without_a_complete_request_is_closed(impatient: Server, sent: bytes) -> None:
    assert read_until_the_end(impatient, sent) == b""


async def test_a_connection_without_a_second_request_is_closed(impatient: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    await until(lambda: read_until_the_end(impatient, request).startswith(b"HTTP/1.1 200 OK"))


def test_a_connection_whose_body_does_not_arrive_is_closed(impatient: Server) -> None:
    token = impatient.token()
    head = f"POST /process HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1000\r\n\r\n"
    assert read_until_the_end(impatient, head.encode() + b"some") == b""
    assert "Traceback" not in "".join(impatient.log)


@pytest.mark.chaos
async def test_a_client_that_answers_no_ping_is_closed(start: Start) -> None:
    """A client that answers pings must stay connected. To prove this, it has to live longer than one ping interval and
    one pong timeout.
    """
    server = start(ping_interval=2, pong_timeout=2)
    for _ in range(5):  # the test may be too slow to answer a ping in time, but not in all 5 attempts
        if await _only_the_silent_client_is_closed(server):
            return
    raise AssertionError("a client that answers pings was closed too")


async def _only_the_silent_client_is_closed(server: Server) -> bool:
    async with await Client.connect(server) as client:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
            silent.sendall(upgrade(token=server.token()))
            received = b""
            while b"no pong in time" not in received:
                received += await read_some(silent)
            assert (4408).to_bytes(2, "big") + b"no pong in time" in received
            assert b"\x89\x00" in received, "the server must send a ping before the close"
        try:
            await client.slice("a", small())
            return bool((await client.wait_for("result"))["id"] == "a")
        except websockets.ConnectionClosed:
            return False


async def read_some(silent: socket.socket) -> bytes:
    """Reads the next bytes in a thread, so that the other client can still answer pings."""
    piece = await asyncio.to_thread(silent.recv, 65536)
    assert piece, "the server closed the connection without a close frame"
    return piece
