"""A connection ends when its token expires, whatever the client does. The server sends a warning before, and the client
can renew the token with a new token of the same user. These tests do not check how soon after the expiry the connection
ends.
"""

import asyncio
import json
import struct
import time
from collections.abc import Callable
from contextlib import suppress

import pytest
import websockets

from handlers.core.auth import issue
from tests.reliability.harness import healthy
from tests.reliability.raw import BINARY, CLOSE, TEXT, Raw, frame
from tests.support.client import PLUG, TRIES, Client, admitted, shortened, upgrade
from tests.support.pictures import small
from tests.support.running import GUARD, SECRET, Server, Start, until

# The close frame for an expired token.
EXPIRED_CLOSE = (CLOSE, b"\x11\x31token expired; connect with a new token")
# Seconds by which the clock of a timer and the clock of a token may differ.
CLOCK_DIFFERENCE = 0.5


async def connected_raw(server: Server, ttl: float) -> Raw:
    for _ in range(TRIES):
        raw = await Raw.connect(server)
        raw.send(upgrade("/ws/images", server.token(ttl=ttl)))
        if (await raw.head()).startswith(b"HTTP/1.1 101 "):
            await raw.frame()
            return raw
        raw.writer.transport.abort()
    raise AssertionError("no token was accepted before it expired")


async def expires(client: Client, end: float) -> None:
    """The server must close with 4401, not before the time ``end``, and before the timeout of Client."""
    assert await client.closed() == 4401
    assert time.time() >= end - CLOCK_DIFFERENCE


async def test_the_server_warns_one_minute_before_a_token_expires(server: Server) -> None:
    """A renewed token gets a new warning. Measured: the warning is within 20 ms of one minute before the expiry."""
    async with await Client.connect(server, token=server.token(ttl=62)) as client:
        expiring = await client.receive()
        assert expiring["type"] == "expiring"
        assert 0 < expiring["in_s"] <= 60
        assert time.time() >= client.hello["expires_at"] - 60 - CLOCK_DIFFERENCE
        await client.send("token", token=server.token(ttl=30))
        assert (await client.receive())["type"] == "renewed"
        assert 0 < (await client.receive())["in_s"] <= 30


async def test_many_tokens_that_expire_together_end_their_connections(server: Server) -> None:
    """Measured: all connections end within 0.1 s. Without the timer, they stay open until the clients leave."""
    clients = await asyncio.gather(*(admitted(server, 3) for _ in range(50)))
    for client in clients:
        expiring = await client.receive()
        assert expiring["type"] == "expiring"
        assert 0 <= expiring["in_s"] <= 3
    await asyncio.gather(*(expires(client, client.hello["expires_at"]) for client in clients))


async def test_a_client_that_never_stops_sending_is_closed_too(start: Start) -> None:
    """Waiting messages must not delay the timer, however many they are."""
    server = start(messages_per_second=1_000_000)
    async with await connected_raw(server, 2) as raw:
        sent = asyncio.create_task(
            send_for_ever(raw, frame(TEXT, b'{"type": "viewport", "top": 0, "height": 1}') * 100)
        )
        assert json.loads((await raw.frame())[1])["type"] == "expiring"
        assert await raw.frame() == EXPIRED_CLOSE
        sent.cancel()


async def send_for_ever(raw: Raw, messages: bytes) -> None:
    with suppress(ConnectionError):
        while True:
            raw.send(messages)
            await raw.writer.drain()


async def test_a_slice_sent_after_the_close_is_not_processed(start: Start) -> None:
    """The client receives the close, and sends more messages before it answers the close.

    This test fails when on_message accepts messages after the close.
    """
    server = start(workers=1)
    async with await connected_raw(server, 1) as raw:
        assert json.loads((await raw.frame())[1])["type"] == "expiring"
        assert await raw.frame() == EXPIRED_CLOSE
        header = b'{"type": "slice", "id": "late", "offset_top": 0}'
        raw.send(frame(BINARY, struct.pack(">I", len(header)) + header + small()))
        raw.send(frame(TEXT, json.dumps({"type": "token", "token": server.token()}).encode()))
        raw.send(frame(CLOSE, EXPIRED_CLOSE[1][:2]))
        assert await raw.rest() == b"", "a new token must not reopen the connection"
    await healthy(server)
    assert server.metric("sluice_slices_total", outcome="done") == 1, "only the slice of the healthy client"
    assert len(server.results()) == 1


async def test_repeated_renewals_keep_the_connection_open(server: Server) -> None:
    """Tries again with longer tokens on a machine that is too busy for short ones."""
    for ttl in (3, 10, 30):
        async with await admitted(server, ttl) as client:
            try:
                for number in range(3):
                    await shortened(client, ttl * (number + 1))
                await until(lambda client=client: time.time() > client.hello["expires_at"] + CLOCK_DIFFERENCE)
                await shortened(client, 600)
            except websockets.ConnectionClosed:
                assert ttl < 30
                continue
            await client.slice("a", small())
            assert (await client.wait_for("result"))["id"] == "a"
            assert time.time() > client.hello["expires_at"], "the first token must have expired by now"
            end = await shortened(client, 2)
            return await expires(client, end)


async def test_a_new_token_that_expires_earlier_ends_the_connection_earlier(server: Server) -> None:
    """A page can replace a long-lived token by a short-lived one."""
    async with await Client.connect(server, token=server.token(ttl=600)) as client:
        await expires(client, await shortened(client, 2))


REFUSED: dict[str, Callable[[Server], str]] = {
    "of another user": lambda server: server.token("mallory"),
    "of another user with every scope": lambda server: server.token("mallory", "images chat video jobs admin"),
    "of a user whose name has the same beginning": lambda server: server.token("alice2"),
    "of the same user in capitals": lambda server: server.token("Alice"),
    "without the scope": lambda server: server.token(scope="chat"),
    "for another address": lambda server: server.token(ip="192.0.2.7"),
    "expired long ago": lambda server: server.token(ttl=-60),
    "signed with another key": lambda server: issue(SECRET[::-1], "alice", "images", 600),
    "with its signature cut off": lambda server: server.token().rpartition(".")[0] + ".",
    "empty": lambda server: "",
    "no token at all": lambda server: "please",
    "of 1 MB": lambda server: server.token() + "A" * (1 << 20),
}


async def test_a_refused_renewal_does_not_extend_the_connection(server: Server) -> None:
    """Sends all these tokens one after another on one connection. The connection must work until the first token
    expires.

    Tries again with a longer first token on a machine that is too busy.
    """
    for ttl in (3, 10, 30):
        async with await admitted(server, ttl) as client:
            try:
                await refuses_all(client)
                await client.slice("a", small())
                assert (await client.wait_for("result"))["id"] == "a"
            except websockets.ConnectionClosed:
                assert ttl < 30
                continue
            return await expires(client, client.hello["expires_at"])


async def refuses_all(client: Client) -> None:
    assert (await client.receive())["type"] == "expiring"
    for case, make in REFUSED.items():
        token = make(client.server)
        await client.send("token", token=token)
        error = await client.receive()
        assert (error["type"], error.get("code")) == ("error", "forbidden"), case
        assert not token or token not in error["message"], case


async def test_slices_accepted_before_the_expiry_are_available_to_a_new_connection(start: Start) -> None:
    """A slice is processed even after its token has expired. Only a new token of the same user can resume
    the session.
    """
    server = start(workers=1, slice_timeout=2 * GUARD, session_grace=2 * GUARD)
    async with await Client.connect(server) as client:
        await client.slice("long", small(), **PLUG)
        await client.slice("short", small(), 1)
        await client.wait_for("accepted", id="short")
        await expires(client, await shortened(client, 1))
    position = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": 0}
    async with await Client.connect(server, "mallory") as other:
        await other.send("resume", **position)
        assert (await other.wait_for("resumed"))["recovered"] is False
    async with await Client.connect(server) as reconnected:
        await reconnected.send("resume", **position)
        resumed = await reconnected.wait_for("resumed")
        assert (resumed["recovered"], sorted(resumed["pending"])) == (True, ["long", "short"])
        await reconnected.send("cancel", id="long")
        found = {end["id"]: end["type"] for end in await reconnected.ends(2)}
        assert found == {"long": "error", "short": "result"}


async def test_a_token_within_the_clock_leeway_gets_a_warning_of_0_seconds(server: Server) -> None:
    async with await admitted(server, -2) as client:
        assert await client.receive() == {"type": "expiring", "in_s": 0}
        assert await client.closed() == 4401


async def test_the_older_protocol_closes_at_the_expiry_without_a_warning(server: Server) -> None:
    """Clients of the older protocol parse ``text`` in every message, so the server must not send a message
    without it.
    """
    while True:
        socket = await websockets.connect(f"{server.ws}/ws?query_string={server.token(ttl=2)}", proxy=None)
        client = Client(server, socket)
        if "token expired" not in str(first_message := await socket.recv()):
            break  # otherwise the machine was too busy for such a short token
        await socket.close()
    assert first_message == '{"text": "{}"}'
    with pytest.raises(websockets.ConnectionClosed):
        await client.receive()
    assert await client.closed() == 4401
