"""Tests of /ws/images: before a token expires, the server sends a warning. The client can renew the token on the same
connection; otherwise the server closes the connection.
"""

import time
from contextlib import suppress
from typing import Any

import websockets

from tests.support.client import Client, admitted, shortened
from tests.support.pictures import small
from tests.support.running import Server, Start, until


async def test_the_server_warns_before_a_token_expires_and_then_closes(server: Server) -> None:
    async with await admitted(server, 3) as client:
        expiring = await client.receive()
        assert expiring["type"] == "expiring"
        assert 0 <= expiring["in_s"] <= 3
        assert await client.closed() == 4401
        assert time.time() >= client.hello["expires_at"]


async def test_a_session_can_be_resumed_after_its_token_expired(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small())
        await client.ends(1)
        await shortened(client, 3)
        assert await client.closed() == 4401
    async with await Client.connect(server) as reconnected:
        await reconnected.send("resume", session=client.hello["session"], epoch=client.hello["epoch"], after=0)
        assert (await reconnected.receive())["recovered"]
        assert (await reconnected.wait_for("result"))["id"] == "a"


async def renewed_in_time(server: Server) -> tuple[Client, dict[str, Any]]:
    """Returns a connection with a renewed token, and the message `renewed`. Retries with longer tokens, because a busy
    machine may need more than three seconds.
    """
    for ttl in (3, 10, 30):
        client = await admitted(server, ttl)
        with suppress(websockets.ConnectionClosed):
            await client.send("token", token=server.token(ttl=600))
            return client, await client.wait_for("renewed")
    raise AssertionError("each token expired before it was renewed")


async def test_a_connection_with_a_renewed_token_outlives_the_first_token(server: Server) -> None:
    client, renewed = await renewed_in_time(server)
    async with client:
        assert renewed["expires_at"] > client.hello["expires_at"] + 500
        await until(lambda: time.time() > client.hello["expires_at"] + 0.2)
        await client.slice("a", small())
        assert (await client.wait_for("result"))["id"] == "a"


async def test_a_refused_renewal_leaves_the_first_token_valid(server: Server) -> None:
    async with await Client.connect(server, token=server.token(ttl=600)) as client:
        await client.send("token", token=server.token(ttl=-60))
        assert (await client.receive())["code"] == "forbidden"
        await client.slice("a", small())
        assert (await client.wait_for("result"))["id"] == "a"


async def test_a_renewal_with_a_token_for_another_address_is_refused(start_here: Start) -> None:
    server = start_here(trusted_proxies="127.0.0.1")
    async with await Client.connect(server, headers={"X-Forwarded-For": "192.0.2.7"}) as client:
        await client.send("token", token=server.token(ip="127.0.0.1"))
        assert (await client.receive())["code"] == "forbidden"
        await client.send("token", token=server.token(ip="192.0.2.7"))
        assert (await client.receive())["type"] == "renewed"
