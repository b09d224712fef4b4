"""A connection lasts as long as its token and no longer: the end is announced, can be put off with a new token of the
same user, and then comes, whatever the client does. How soon is not tested: only that it does."""

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

# The close that says so.
ENDED = (CLOSE, b"\x11\x31token expired; connect with a new token")
# Seconds by which the clocks of a timer and of a token may differ.
APART = 0.5


async def admitted_raw(server: Server, ttl: float) -> Raw:
    for _ in range(TRIES):
        raw = await Raw.connect(server)
        raw.send(upgrade("/ws/images", server.token(ttl=ttl)))
        if (await raw.head()).startswith(b"HTTP/1.1 101 "):
            await raw.frame()
            return raw
        raw.writer.transport.abort()
    raise AssertionError("nobody is let in")


async def ends(client: Client, end: float) -> None:
    """With 4401, not before that moment, and soon after it: sooner than Client gives up."""
    assert await client.closed() == 4401
    assert time.time() >= end - APART


async def test_a_token_that_runs_out_is_announced_a_minute_before(server: Server) -> None:
    """And the announcement comes anew for the token that takes its place. Measured: within 20 ms of the minute."""
    async with await Client.connect(server, token=server.token(ttl=62)) as client:
        expiring = await client.receive()
        assert expiring["type"] == "expiring"
        assert 0 < expiring["in_s"] <= 60
        assert time.time() >= client.hello["expires_at"] - 60 - APART
        await client.send("token", token=server.token(ttl=30))
        assert (await client.receive())["type"] == "renewed"
        assert 0 < (await client.receive())["in_s"] <= 30


async def test_many_tokens_that_run_out_at_once_end_their_connections(server: Server) -> None:
    """Measured: within 0.1 s. Without the timer they stay open until the client leaves."""
    clients = await asyncio.gather(*(admitted(server, 3) for _ in range(50)))
    for client in clients:
        expiring = await client.receive()
        assert expiring["type"] == "expiring"
        assert 0 <= expiring["in_s"] <= 3
    await asyncio.gather(*(ends(client, client.hello["expires_at"]) for client in clients))


async def test_a_client_that_never_stops_sending_is_ended_as_well(start: Start) -> None:
    """Messages do not hold up the timer, however many wait to be read."""
    server = start(messages_per_second=1_000_000)
    async with await admitted_raw(server, 2) as raw:
        sent = asyncio.create_task(
            send_for_ever(raw, frame(TEXT, b'{"type": "viewport", "top": 0, "height": 1}') * 100)
        )
        assert json.loads((await raw.frame())[1])["type"] == "expiring"
        assert await raw.frame() == ENDED
        sent.cancel()


async def send_for_ever(raw: Raw, messages: bytes) -> None:
    with suppress(ConnectionError):
        while True:
            raw.send(messages)
            await raw.writer.drain()


async def test_a_slice_sent_after_the_end_is_not_worked(start: Start) -> None:
    """The client has heard the close, and goes on before it answers it. Fails when on_message takes what comes then."""
    server = start(workers=1)
    async with await admitted_raw(server, 1) as raw:
        assert json.loads((await raw.frame())[1])["type"] == "expiring"
        assert await raw.frame() == ENDED
        header = b'{"type": "slice", "id": "late", "offset_top": 0}'
        raw.send(frame(BINARY, struct.pack(">I", len(header)) + header + small()))
        raw.send(frame(TEXT, json.dumps({"type": "token", "token": server.token()}).encode()))
        raw.send(frame(CLOSE, ENDED[1][:2]))
        assert await raw.rest() == b"", "and no new token brings it back"
    await healthy(server)
    assert server.metric("sluice_slices_total", outcome="done") == 1, "the healthy client's"
    assert len(server.results()) == 1


async def test_a_token_renewed_again_and_again_keeps_the_connection_open(server: Server) -> None:
    """A machine that is too busy for tokens so short is given longer ones."""
    for ttl in (3, 10, 30):
        async with await admitted(server, ttl) as client:
            try:
                for number in range(3):
                    await shortened(client, ttl * (number + 1))
                await until(lambda client=client: time.time() > client.hello["expires_at"] + APART)
                await shortened(client, 600)
            except websockets.ConnectionClosed:
                assert ttl < 30
                continue
            await client.slice("a", small())
            assert (await client.wait_for("result"))["id"] == "a"
            assert time.time() > client.hello["expires_at"], "so the first would have ended it"
            end = await shortened(client, 2)
            return await ends(client, end)


async def test_a_new_token_that_ends_sooner_ends_the_connection_sooner(server: Server) -> None:
    """So that a page can give up a long-lived token for a short one."""
    async with await Client.connect(server, token=server.token(ttl=600)) as client:
        await ends(client, await shortened(client, 2))


REFUSED: dict[str, Callable[[Server], str]] = {
    "of another user": lambda server: server.token("mallory"),
    "of another user with every scope": lambda server: server.token("mallory", "images chat video jobs admin"),
    "of a user whose name begins the same": lambda server: server.token("alice2"),
    "of the same user in capitals": lambda server: server.token("Alice"),
    "without the scope": lambda server: server.token(scope="chat"),
    "for another address": lambda server: server.token(ip="192.0.2.7"),
    "run out long ago": lambda server: server.token(ttl=-60),
    "signed with another key": lambda server: issue(SECRET[::-1], "alice", "images", 600),
    "with its signature cut off": lambda server: server.token().rpartition(".")[0] + ".",
    "empty": lambda server: "",
    "no token at all": lambda server: "please",
    "of 1 MB": lambda server: server.token() + "A" * (1 << 20),
}


async def test_a_token_that_does_not_fit_is_refused_and_puts_off_nothing(server: Server) -> None:
    """All of them, one after another, on one connection: it goes on until the first token's end, and ends then. A
    machine that is too busy to hear all of them within so short a time is given longer."""
    for ttl in (3, 10, 30):
        async with await admitted(server, ttl) as client:
            try:
                await refuses_all(client)
                await client.slice("a", small())
                assert (await client.wait_for("result"))["id"] == "a"
            except websockets.ConnectionClosed:
                assert ttl < 30
                continue
            return await ends(client, client.hello["expires_at"])


async def refuses_all(client: Client) -> None:
    assert (await client.receive())["type"] == "expiring"
    for case, make in REFUSED.items():
        token = make(client.server)
        await client.send("token", token=token)
        error = await client.receive()
        assert (error["type"], error.get("code")) == ("error", "forbidden"), case
        assert not token or token not in error["message"], case


async def test_what_was_accepted_before_the_end_is_there_for_the_next_connection(start: Start) -> None:
    """The work outlives the token that asked for it, and is given to a new token of the same user only."""
    server = start(workers=1, slice_timeout=2 * GUARD, session_grace=2 * GUARD)
    async with await Client.connect(server) as client:
        await client.slice("long", small(), **PLUG)
        await client.slice("short", small(), 1)
        await client.wait_for("accepted", id="short")
        await ends(client, await shortened(client, 1))
    place = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": 0}
    async with await Client.connect(server, "mallory") as other:
        await other.send("resume", **place)
        assert (await other.wait_for("resumed"))["recovered"] is False
    async with await Client.connect(server) as again:
        await again.send("resume", **place)
        resumed = await again.wait_for("resumed")
        assert (resumed["recovered"], sorted(resumed["pending"])) == (True, ["long", "short"])
        await again.send("cancel", id="long")
        found = {end["id"]: end["type"] for end in await again.ends(2)}
        assert found == {"long": "error", "short": "result"}


async def test_a_token_within_the_leeway_of_clocks_is_announced_as_ending_now(server: Server) -> None:
    async with await admitted(server, -2) as client:
        assert await client.receive() == {"type": "expiring", "in_s": 0}
        assert await client.closed() == 4401


async def test_the_older_protocol_ends_with_the_token_and_says_nothing_that_it_has_no_word_for(server: Server) -> None:
    """Front ends that speak it parse ``text`` of whatever comes."""
    while True:
        socket = await websockets.connect(f"{server.ws}/ws?query_string={server.token(ttl=2)}", proxy=None)
        client = Client(server, socket)
        if "token expired" not in str(said := await socket.recv()):
            break  # else the machine was too busy for so short a token
        await socket.close()
    assert said == '{"text": "{}"}'
    with pytest.raises(websockets.ConnectionClosed):
        await client.receive()
    assert await client.closed() == 4401
