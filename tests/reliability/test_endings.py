"""HTTP answers of a server during its shutdown: each answer is complete or missing, but never a 500.

A proxy keeps its connections open and sends requests on them until the end. It may repeat a request without an answer
on another server, but it passes every answer to the client. These tests fail without close_http_connections in
server.py (500) and without no_keep_alive (the header "Connection: close" is missing).
"""

import asyncio
import signal
import time

import pytest

from tests.reliability.doors import bearer, request
from tests.reliability.harness import tried
from tests.reliability.raw import Raw, thin
from tests.support.client import Client
from tests.support.pictures import decoded, encoded, photograph
from tests.support.running import GUARD, Server, Start, until

pytestmark = pytest.mark.chaos

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def draining(server: Server) -> bool:
    return any('"server.draining"' in line for line in server.log)


async def test_an_incomplete_request_is_closed_without_an_answer(start: Start) -> None:
    """The server reads all received bytes before it closes the connection, so that the client sees a normal end and no
    reset.
    """
    server = start()
    head = request("POST /process?zoom=1", *bearer(server.token().encode()), body=bytes(1000))
    upload = request("POST /upload", *bearer(server.token(scope="chat").encode()), body=bytes(1000))
    async with await Raw.connect(server) as process, await Raw.connect(server) as sent:
        for raw, text in ((process, head), (sent, upload)):
            raw.send(HEALTH, text[:-1])
            assert (await raw.head()).startswith(b"HTTP/1.1 200 ")
            assert await raw.reader.readexactly(16) == b'{"status": "ok"}'
        await until(lambda: sum('"http.authorized"' in line for line in server.log) == 2)
        assert await asyncio.to_thread(server.stop) == 0
        assert (await process.rest(), await sent.rest()) == (b"", b"")
    assert not [line for line in server.log if '"error"' in line or "Traceback" in line]


async def test_a_running_request_is_answered_and_an_open_connection_is_closed(start: Start) -> None:
    server = start(workers=1, slice_timeout=2 * GUARD, drain_timeout=2 * GUARD)
    picture = encoded(photograph(), ".png")
    ask = request("POST /process?zoom=2&format=png", *bearer(server.token("bob").encode()), body=picture)
    async with await Client.connect(server) as client, await Raw.connect(server) as kept:
        kept.send(HEALTH)
        await kept.head()
        await kept.reader.readexactly(16)
        await client.plug()
        async with await Raw.connect(server) as waiting:
            waiting.send(ask)
            await until(lambda: server.metric("sluice_queue_depth") == 1)
            server.process.send_signal(signal.SIGTERM)
            await until(lambda: draining(server))
            # The waiting request gets a 503, so that the client tries again. New requests on an open connection are
            # answered, and the last answer has "Connection: close".
            assert (await waiting.head()).startswith(b"HTTP/1.1 503 ")
        kept.send(HEALTH, HEALTH)
        heads = []
        while b"connection: close" not in b"".join(heads).lower():
            heads.append(await kept.head())
            await kept.reader.readexactly(16)
        assert len(heads) <= 2
        assert await kept.rest() == b""
        await client.send("cancel", id="plug")
        assert await client.closed() == 1012
    assert await asyncio.to_thread(server.ended) == 0


async def test_an_answer_that_is_being_sent_arrives_completely(start: Start) -> None:
    """The answer has more MB than the buffers of the system. The server sends all of it before it closes the
    connection.

    The server waits two seconds for a client that stops reading. After that the client gets no complete answer, and the
    test tries again.
    """

    async def attempt() -> float | None:
        server = start(slice_timeout=2 * GUARD)
        ask = request(
            "POST /process?zoom=8&format=png",
            *bearer(server.token().encode()),
            body=encoded(photograph(), ".png"),
        )
        async with Raw(*await asyncio.open_connection(sock=thin(server), limit=1 << 14)) as raw:
            raw.send(ask)
            head = await raw.head()
            assert head.startswith(b"HTTP/1.1 200 ")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            body = await raw.rest()
            seconds = time.monotonic() - began
        assert await asyncio.to_thread(server.ended) == 0
        if len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]):
            return seconds
        assert decoded(body).shape == (4096, 4096, 3)
        return None

    await tried(2, attempt)
