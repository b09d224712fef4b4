"""Tests the upgrade to a WebSocket (RFC 6455, section 4): the chosen subprotocol, refused requests, and requests and
frames that are pipelined before and after the upgrade.
"""

import json

import pytest

from tests.reliability.raw import CLOSE, KEY, TEXT, Raw, answer
from tests.support.client import upgrade
from tests.support.running import Server, until

OFFERS: dict[str, tuple[list[str], str | None]] = {
    # Each case: the lines of Sec-WebSocket-Protocol, with TOKEN in place of the token, and the chosen subprotocol
    # (section 4.2.2).
    "none": ([], None),
    "an empty one": ([""], None),
    "commas only": ([", ,"], None),
    "ours": (["sluice.v2"], "sluice.v2"),
    "unknown": (["graphql-ws"], None),
    "in capitals": (["Sluice.V2"], None),
    "several": (["chat, sluice.v2, superchat"], "sluice.v2"),
    "several, without spaces": (["chat,sluice.v2"], "sluice.v2"),
    "several, on two lines": (["chat", "sluice.v2"], "sluice.v2"),
    "twice": (["sluice.v2, sluice.v2"], "sluice.v2"),
    "with the token": (["sluice.v2, TOKEN"], "sluice.v2"),
    "after the token": (["TOKEN, sluice.v2"], "sluice.v2"),
    "on another line than the token": (["TOKEN", "sluice.v2"], "sluice.v2"),
    "the token only": (["TOKEN"], None),
}


@pytest.mark.parametrize("offer", OFFERS)
async def test_the_subprotocol_is_sluice_v2_or_none_and_never_the_token(server: Server, offer: str) -> None:
    lines, chosen = OFFERS[offer]
    token = server.token()
    header_lines = [f"Sec-WebSocket-Protocol: {line.replace('TOKEN', 'bearer.' + token)}" for line in lines]
    request = upgrade(token="" if "TOKEN" in str(lines) else token)
    async with await Raw.connect(server) as raw:
        raw.send(request.replace(b"Host: x", "\r\n".join(["Host: x", *header_lines]).encode()))
        head = await raw.head()
        assert token.encode() not in head
        assert handshake(head) == {
            b"upgrade": b"websocket",
            b"connection": b"Upgrade",
            b"sec-websocket-accept": b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",  # belongs to the key in section 1.3
            **({b"sec-websocket-protocol": chosen.encode()} if chosen else {}),
        }
        first, hello = await raw.frame()
        assert first == TEXT
        assert json.loads(hello)["type"] == "hello"


def handshake(head: bytes) -> dict[bytes, bytes]:
    """Returns the headers of the response that belong to the upgrade. The names are in lower case."""
    status, *lines = head.strip().split(b"\r\n")
    assert status == b"HTTP/1.1 101 Switching Protocols"
    pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    upgrade_headers = [pair for pair in pairs if pair[0].startswith((b"sec-websocket", b"upgrade", b"connection"))]
    assert len(upgrade_headers) == len(dict(upgrade_headers)), "each header must occur once"
    return dict(upgrade_headers)


REFUSED: dict[str, tuple[bytes, bytes, bytes]] = {
    # Each case: a part of the request, its replacement, and the expected status line (RFC 6455, sections 4.2.1 and
    # 4.4).
    "POST": (b"GET ", b"POST ", b"405 Method Not Allowed"),
    "without Connection: Upgrade": (b"Connection: Upgrade", b"Connection: keep-alive", b"400 Bad Request"),
    "without a key": (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"", b"400 Bad Request"),
    "version 8": (b"Version: 13", b"Version: 8", b"426 Upgrade Required"),
    "without a version": (b"Sec-WebSocket-Version: 13\r\n", b"", b"426 Upgrade Required"),
    "without Host": (b"Host: x\r\n", b"", b"400 Bad Request"),
    "with two Hosts": (b"Host: x\r\n", b"Host: x\r\nHost: y\r\n", b"400 Bad Request"),
    "with a body of two lengths": (
        b"Host: x\r\n",
        b"Host: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        b"400 Bad Request",
    ),
    "with an Origin that is not allowed": (
        b"Host: x\r\n",
        b"Host: x\r\nOrigin: https://evil.example\r\n",
        b"403 Forbidden",
    ),
    "without a token": (b"Authorization", b"X-Nothing", b"401 Unauthorized"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_invalid_upgrade_request_is_refused_and_not_counted(server: Server, case: str) -> None:
    part, replacement, status = REFUSED[case]
    request = upgrade(token=server.token())
    assert part in request
    before = server.metric("sluice_connections")
    async with await Raw.connect(server) as raw:
        raw.send(request.replace(part, replacement, 1))
        head = await raw.head()
        assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
        assert (b"sec-websocket-version: 13" in head.lower()) == (b"426" in status), (
            "section 4.4: the response must name the supported version"
        )
    await until(lambda: server.metric("sluice_connections") <= before)


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_requests_pipelined_before_the_upgrade_are_answered_in_their_order(server: Server) -> None:
    async with await Raw.connect(server) as raw:
        raw.send(HEALTH, HEALTH, upgrade(token=server.token()))
        for _ in range(2):
            assert (await raw.head()).startswith(b"HTTP/1.1 200 OK\r\n")
            assert await raw.reader.readexactly(16) == b'{"status": "ok"}'
        handshake(await raw.head())
        assert json.loads((await raw.frame())[1])["type"] == "hello"


async def test_frames_sent_with_the_upgrade_request_are_handled_after_it(server: Server) -> None:
    """Section 4.1: the client MUST wait for the response. The server also accepts a client that does not wait."""
    async with await Raw.connect(server) as raw:
        raw.send(upgrade(token=server.token()), b"\x89\x82" + KEY + b"hi" + b"\x88\x80" + KEY)
        handshake(await raw.head())
        assert json.loads((await raw.frame())[1])["type"] == "hello"
        assert await raw.rest() == b"\x8a\x02hi\x88\x00"


@pytest.mark.parametrize("after", [HEALTH, upgrade()])
async def test_a_request_after_the_upgrade_is_not_answered_as_http(server: Server, after: bytes) -> None:
    """The first byte is a frame with a reserved bit. The server must not send a second HTTP response, which a proxy
    could take for the response to the request of another client.
    """
    async with await Raw.connect(server) as raw:
        raw.send(upgrade(token=server.token()), after)
        handshake(await raw.head())
        assert json.loads((await raw.frame())[1])["type"] == "hello"
        got = await raw.rest()
        assert got == b"" or got.startswith(b"\x88")


async def test_the_body_of_an_upgrade_request_is_ignored(server: Server) -> None:
    """The bytes of the body must not be taken for frames. Otherwise a client could send messages through a proxy that
    only permits a body.
    """
    body = b"\x81\x82" + KEY + b"[]"
    async with await Raw.connect(server) as raw:
        raw.send(upgrade(token=server.token()).replace(b"Host: x", b"Host: x\r\nContent-Length: %d" % len(body)), body)
        raw.send(b"\x88\x80" + KEY)
        handshake(await raw.head())
        await raw.frame()
        assert await raw.rest() == answer(CLOSE)
