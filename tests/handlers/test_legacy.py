"""/ws: the exact 150-character protocol, on which existing front ends rely."""

import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import websockets
from websockets.asyncio.client import ClientConnection

from handlers.core.auth import issue
from tests.support.client import upgrade
from tests.support.pictures import animated_gif, decoded, encoded, photograph, small
from tests.support.running import SECRET, Server, Start, until


async def connect(server: Server, token: str | None = None) -> ClientConnection:
    """Connects like a page: with the token in the query and without a subprotocol."""
    token = server.token() if token is None else token
    return await websockets.connect(f"{server.ws}/ws?query_string={token}", proxy=None, max_size=None)


async def greeted(server: Server) -> ClientConnection:
    page = await connect(server)
    assert await page.recv() == '{"text": "{}"}'
    return page


def message(picture: bytes = b"", **header: Any) -> str:
    """Returns a message: the header padded to 150 characters, then the picture in base64."""
    text = json.dumps({"uuid": "a", "offset_top": 0, "zoom": 1} | header, ensure_ascii=False)
    assert len(text) <= 150
    return text.ljust(150) + base64.b64encode(picture or small()).decode()


async def answer(page: ClientConnection) -> dict[str, Any]:
    """Returns the JSON document in the next message."""
    outer = json.loads(await page.recv())
    assert list(outer) == ["text"]
    return json.loads(outer["text"])


async def test_all_messages_of_a_session_have_the_exact_text(server: Server) -> None:
    async with await connect(server) as page:
        assert page.subprotocol is None
        assert await page.recv() == '{"text": "{}"}'
        header = '{"uuid":"b54a7fe0-8a34","offset_top":"1024","zoom":"0.5","rType":"rl","responseType":"url"}'
        await page.send(header + " " * (150 - len(header)) + base64.b64encode(small()).decode().replace("+", " "))
        said = await page.recv()
        assert isinstance(said, str)
        name = said.removeprefix(f'{{"text": "{{\\"url\\": \\"{server.url}/media/')
        name = name.removesuffix('\\", \\"uuid\\": \\"b54a7fe0-8a34\\"}"}')
        assert len(name) == len("0123456789abcdef0123456789abcdef.jpg"), said
        assert decoded(httpx.get(f"{server.url}/media/{name}").content).shape == (32, 64, 3)


async def test_a_space_stands_for_a_plus_sign(server: Server) -> None:
    picture = encoded(photograph())
    text = base64.b64encode(picture).decode()
    assert text.count("+") > 100
    async with await greeted(server) as page:
        await page.send(message(picture)[:150] + text.replace("+", " "))
        with_spaces = decoded(httpx.get((await answer(page))["url"]).content)
        await page.send(message(picture))
        assert (decoded(httpx.get((await answer(page))["url"]).content) == with_spaces).all()


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ({}, (128, 64)),
        ({"zoom": 0.5}, (64, 32)),
        ({"zoom": "0.5"}, (64, 32)),
        ({"zoom": " 2 "}, (256, 128)),
        ({"zoom": 0.33}, (42, 21)),
        ({"zoom": 0.001}, (1, 1)),
        ({"zoom": "1e-3", "offset_top": "-12.5"}, (1, 1)),
        ({"rType": "rl"}, (128, 64)),
        ({"rType": "grayscale"}, (128, 64)),
        ({"responseType": "url"}, (128, 64)),
        ({"colour": "red", "n": {"a": [1]}}, (128, 64)),
    ],
)
async def test_the_header_is_parsed_as_by_the_older_server(
    server: Server, header: dict[str, Any], size: tuple[int, int]
) -> None:
    async with await greeted(server) as page:
        await page.send(message(**header))
        found = await answer(page)
        assert list(found) == ["url", "uuid"]
        assert decoded(httpx.get(found["url"]).content).shape[1::-1] == size


@pytest.mark.parametrize("uuid", ["a-b-c", "", "\u00e9\u4e16", "\U0001f600", 7, -1, 1.5, 10**60])
async def test_the_uuid_is_returned_unchanged(server: Server, uuid: str | float) -> None:
    async with await greeted(server) as page:
        await page.send(message(uuid=uuid))
        assert (await answer(page))["uuid"] == uuid
        await page.send(message(b"no picture", uuid=uuid))
        assert (await answer(page))["uuid"] == uuid


async def test_another_response_type_gives_the_data_of_the_action(start_here: Start) -> None:
    server = start_here()
    async with await greeted(server) as page:
        await page.send(message(rType="codes", responseType="json"))
        assert await answer(page) == {"codes": [], "uuid": "a"}
        assert server.results() == []


BROKEN: dict[str, tuple[str | bytes, str, Any]] = {
    # The message that is sent, a word of the error, and the uuid of the answer.
    "a header cut in the middle": ('{"uuid": "a", "offset_top": 0, "zo', "not valid JSON", None),
    "a header longer than 150": (json.dumps({"uuid": "a", "x": "y" * 150}) + "AAAA", "not valid JSON", None),
    "no header": ("", "not valid JSON", None),
    "only spaces": (" " * 150, "not valid JSON", None),
    "a header that is a list": ("[1]".ljust(150), "object", None),
    "a binary message": (message().encode(), "text messages only", None),
    "no uuid": ('{"offset_top": 0, "zoom": 1}'.ljust(150) + "AAAA", "uuid", None),
    "a uuid that is an object": (message(uuid={"a": 1}), "uuid", None),
    "a uuid that is no number": (message(uuid=float("nan")), "uuid", None),
    "a uuid beyond all numbers": (message(uuid=float("inf")), "uuid", None),
    "a uuid that is true": (message(uuid=True), "uuid", None),
    # The 150 characters are code points. JavaScript's padEnd counts an emoji as two.
    "an emoji that is counted twice": (message(uuid="\U0001f600")[:149] + message()[150:], "not valid JSON", None),
    "no zoom": ('{"uuid": "a", "offset_top": 0}'.ljust(150) + "AAAA", "zoom", "a"),
    "zoom 0": (message(zoom=0), "zoom", "a"),
    "zoom 0 and a uuid with a fraction": (message(zoom=0, uuid=1.5), "zoom", 1.5),
    "a negative zoom": (message(zoom="-1"), "zoom", "a"),
    "zoom true": (message(zoom=True), "zoom", "a"),
    "an offset that is true": (message(offset_top=True), "offset_top", "a"),
    "zoom NaN": (message(zoom=float("nan")), "zoom", "a"),
    "zoom NaN in words": (message(zoom="nan"), "zoom", "a"),
    "zoom 1e9": (message(zoom=1e9), "pixels", "a"),
    "an offset in words": (message(offset_top="top"), "offset_top", "a"),
    "an unknown action": (message(rType="dance"), "dance", "a"),
    "data of an action without": (message(responseType="json"), "no data", "a"),
    "base64 that is cut": (message()[:-1], "base64", "a"),
    "base64 rubbish": (message()[:150] + "\u4e16" * 8, "base64", "a"),
    "nothing after the header": (message()[:150], "empty", "a"),
    "a text file": (message(b"Dear reader"), "not a picture", "a"),
    "a truncated JPEG": (message(encoded(photograph())[:9000]), "cannot be read", "a"),
    "a GIF": (message(animated_gif()), "GIF", "a"),
    "too many bytes": (message(bytes((16 << 20) + 1)), "16,777,216", "a"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_input_that_the_older_server_ignored_gets_an_error(server: Server, case: str) -> None:
    sent, word, uuid = BROKEN[case]
    async with await greeted(server) as page:
        await page.send(sent)
        said = await answer(page)
        assert list(said) == ["error", "uuid"]
        assert word in said["error"]
        assert said["uuid"] == uuid
        await page.send(message())
        assert "url" in await answer(page), "the connection goes on"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (lambda: issue(SECRET, "alice", "images", 60, ip="192.0.2.1"), "ip mismatch"),
        (lambda: issue(SECRET, "alice", "images", -60), "token expired"),
        (lambda: issue("x" * 32, "alice", "images", 60), "enter correct token"),
        (lambda: issue(SECRET, "alice", "chat", 60), "enter correct token"),
        (lambda: "rubbish", "enter correct token"),
        (lambda: "", "enter correct token"),
    ],
    ids=["ip", "expired", "key", "scope", "rubbish", "none"],
)
async def test_a_bad_token_gets_one_message_and_then_the_close(
    server: Server, token: Callable[[], str], words: str
) -> None:
    async with await connect(server, token()) as page:
        assert await page.recv() == '{"text": "{\\"error\\": \\"' + words + '\\"}", "close": true}'
        with pytest.raises(websockets.ConnectionClosed):
            await page.recv()


async def test_a_token_in_a_header_is_ignored_in_this_protocol(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token()}"}
    async with await websockets.connect(f"{server.ws}/ws", additional_headers=headers, proxy=None) as page:
        assert "enter correct token" in str(await page.recv())


async def test_pages_of_other_origins_are_refused_before_the_upgrade(server: Server) -> None:
    for origin in ("http://evil.example", "http://scope.example"):
        url = f"{server.ws}/ws?query_string={server.token()}"
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(url, origin=websockets.Origin(origin), proxy=None)
        assert caught.value.response.status_code == 403


async def test_slices_are_processed_from_the_top_and_cancelled_with_the_connection(start: Start) -> None:
    server = start(workers=1, slice_timeout=60)
    await until(lambda: len(server.children()) == 1)
    (decoder,) = server.children()
    async with await greeted(server) as page:
        decoder.suspend()  # so the first one is still being processed when all have arrived, on any machine
        await page.send(message(uuid="first"))
        await until(lambda: server.metric("sluice_running") == 1)
        for top in (300, 100, 200):
            await page.send(message(uuid=top, offset_top=top))
        await until(lambda: server.metric("sluice_queue_depth") == 3)
        decoder.resume()
        assert [(await answer(page))["uuid"] for _ in range(4)] == ["first", 100, 200, 300]
        decoder.suspend()
        await page.send(message(uuid="left"))
        await page.send(message(uuid="behind"))
        await until(lambda: server.metric("sluice_queue_depth") == 1 and server.metric("sluice_running") == 1)
    await until(lambda: server.metric("sluice_queue_depth") == 0 and server.metric("sluice_running") == 0)
    assert server.metric("sluice_child_deaths_total", reason="cancelled") == 1, "the running slice is cancelled too"
    assert len(server.results()) == 4


def test_the_handshake_and_the_greeting_byte_by_byte(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(upgrade(f"/ws?query_string={server.token()}"))
        said = b""
        while not said.endswith(b'\x81\x0e{"text": "{}"}'):
            said += connection.recv(1000)
        head = said.split(b"\r\n\r\n")[0].split(b"\r\n")
        assert head[0] == b"HTTP/1.1 101 Switching Protocols"
        assert b"Sec-Websocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        assert not [line for line in head if line.lower().startswith(b"sec-websocket-protocol")]
