"""Compressed data is refused or limited, and a malformed message of each WebSocket protocol gets exactly one error.

Hypothesis creates the malformed messages from valid ones by breaking one thing. Each run has the same messages.
"""

import gzip
import json
import struct
import zlib
from base64 import b64encode
from typing import Any

import httpx
import pytest
import websockets
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.reliability.harness import Cost, healthy
from tests.reliability.raw import TEXT, Raw, closing, frame
from tests.support.client import Client, upgrade
from tests.support.pictures import small
from tests.support.running import Server
from works.errors import CODES

pytestmark = pytest.mark.chaos

MIB = 1 << 20
# 64 MiB of zeros in 64 KiB, compressed for permessage-deflate (RFC 7692, 7.2.1).
PACKER = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB = PACKER.compress(bytes(64 * MIB)) + PACKER.flush(zlib.Z_SYNC_FLUSH)[:-4]

OFFERS = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=8; client_no_context_takeover",
    "permessage-deflate; client_max_window_bits=99, permessage-deflate",
    "permessage-bzip2, x-webkit-deflate-frame",
    ';;;=",',
]


@pytest.mark.parametrize("path", ["/ws/images", "/ws"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_the_server_offers_no_compression_and_refuses_a_compressed_frame(
    server: Server, offer: str, path: str
) -> None:
    """This test fails when get_compression_options() returns {}: the server then accepts compression and decompresses
    64 MiB.
    """
    token = server.token()
    offered = f"Host: x\r\nSec-WebSocket-Extensions: {offer}".encode()
    await healthy(server)
    before = Cost.of(server)
    async with await Raw.connect(server) as raw:
        raw.send(upgrade(f"{path}?query_string={token}", token).replace(b"Host: x", offered))
        head = await raw.head()
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"sec-websocket-extensions" not in head.lower()
        await raw.frame()
        raw.send(frame(TEXT | 0x40, BOMB))
        assert await raw.rest() == closing(1002, "reserved bits must be 0: no extension was agreed on")
    await healthy(server)
    assert Cost.of(server).memory - before.memory < 32 * MIB, "the server decompressed 64 MiB"


async def test_a_client_that_offers_compression_is_served_without_compression(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token()}"}
    async with websockets.connect(
        f"{server.ws}/ws/images", additional_headers=headers, compression="deflate", proxy=None
    ) as socket:
        assert socket.protocol.extensions == []
        assert json.loads(await socket.recv())["type"] == "hello"


async def test_the_server_does_not_decompress_a_request_body(server: Server) -> None:
    """64 MiB of zeros are sent as 64 KiB of gzip data. The server does not decompress the body and refuses it as an
    invalid picture.
    """
    await healthy(server)
    before = Cost.of(server)
    headers = {"Authorization": f"Bearer {server.token()}", "Content-Encoding": "gzip"}
    async with httpx.AsyncClient() as http:
        for body in (gzip.compress(bytes(64 * MIB)), gzip.compress(small())):
            answer = await http.post(f"{server.url}/process", content=body, headers=headers)
            assert answer.status_code in (415, 422)
            assert answer.json()["error"]["code"] in ("bad_image", "unsupported_format")
    assert Cost.of(server).memory - before.memory < 32 * MIB, "the server decompressed 64 MiB"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NO_STRING = st.none() | st.integers() | st.floats() | st.lists(JUNK, max_size=2) | st.dictionaries(st.text(), JUNK)
NO_NUMBER = st.none() | st.sampled_from(["", "top", "1e", "0x1", "\ud800", float("nan"), float("inf"), [], [1], {}])
SURROGATE = st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3)

GOOD: dict[str, dict[str, Any]] = {
    "slice": {"id": "bad", "offset_top": 0, "action": "resize", "options": {}},
    "viewport": {"top": 0, "height": 100},
    "cancel": {"id": "unknown"},
    "resume": {"session": "0" * 32, "epoch": "x", "after": 0},
    "token": {"token": "x"},
}
REQUIRED = {"slice": ["id", "offset_top"], "viewport": ["top", "height"], "resume": ["session", "epoch", "after"]}
# Invalid values for each member of a message.
NEVER: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "slice": {
        "id": NO_STRING | SURROGATE | st.sampled_from(["", "x" * 101, "\u00e9" * 10_000]),
        "offset_top": NO_NUMBER,
        "height": NO_NUMBER | st.floats(max_value=-1e-9),
        "image": NO_STRING | SURROGATE | st.text(min_size=101),
        "action": NO_STRING | st.text().filter(lambda text: text not in ("resize",)).map(lambda text: f"no {text}"),
        "options": st.none() | st.text() | st.lists(JUNK) | st.dictionaries(st.text(), JUNK, min_size=1),
        "zoom": NO_NUMBER | st.floats(max_value=0) | st.integers(max_value=0) | st.just(10**400),
        "fit": st.integers()
        | st.sampled_from(["", "0x0", "512", "x512", "1x1x1", "-1x5", "999999x1", " 1x1", "\ud800"]),
        "respond": NO_STRING | st.text().map(lambda text: f"no {text}"),
        "format": NO_STRING | st.sampled_from(["gif", "JPEG", "", "jpeg "]),
        "data": st.integers() | st.lists(JUNK) | st.sampled_from(["\u00e9", "@@@@", "A", "=", "\ud800", "QUJD"]),
    },
    "viewport": {"top": NO_NUMBER, "height": NO_NUMBER | st.floats(max_value=-1e-9), "image": NO_STRING | SURROGATE},
    "cancel": {"id": st.integers() | st.text().map(lambda text: f"no {text}"), "image": st.integers() | st.text()},
    "resume": {"session": NO_STRING, "epoch": NO_STRING | SURROGATE, "after": NO_NUMBER | st.integers(max_value=-1)},
    "token": {"token": NO_STRING | st.text(st.characters(), max_size=9000)},
}


@st.composite
def members(draw: st.DrawFn) -> dict[str, Any]:
    """A message that is an object with one error."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    message = {"type": kind} | GOOD[kind]
    match draw(st.sampled_from(["changed", "missing", "added", "invalid type"])):
        case "missing" if kind in REQUIRED:
            del message[draw(st.sampled_from(REQUIRED[kind]))]
        case "added":
            message[draw(st.text(st.characters(), max_size=600).map(lambda text: f"no {text}"))] = draw(JUNK)
        case "invalid type":
            message["type"] = draw(JUNK)
        case _:
            member = draw(st.sampled_from(sorted(NEVER[kind])))
            message[member] = draw(NEVER[kind][member])
    return message


@st.composite
def malformed(draw: st.DrawFn) -> str | bytes:
    """A text or binary message that must be refused, or a slice with an invalid picture."""
    text = json.dumps(draw(members()))
    payload = draw(st.sampled_from([b"", small()]) | st.binary(max_size=50))
    packed = struct.pack(">I", len(text)) + text.encode() + payload
    match draw(st.sampled_from(["text", "binary", "truncated", "not an object", "wrong length", "not UTF-8", "bytes"])):
        case "text":
            return text
        case "truncated":
            return text[: draw(st.integers(0, len(text) - 1))]
        case "not an object":
            return json.dumps(draw(JUNK.filter(lambda value: not isinstance(value, dict))))
        case "wrong length":
            return struct.pack(">I", draw(st.integers(len(text) + len(payload) + 1, 2**32 - 1))) + packed[4:]
        case "not UTF-8":
            return struct.pack(">I", len(text) + 1) + b"\xff" + packed[4:]
        case "bytes":
            return draw(st.binary(max_size=40))
        case _:
            return packed


async def has_one_answer(server: Server, message: str | bytes) -> None:
    """Checks that the message gets one error with a known code, and that both connections still work."""
    async with await Client.connect(server) as client, await Client.connect(server, "bob") as neighbour:
        await client.socket.send(message)
        await neighbour.slice("theirs", small())
        await client.slice("good", small())
        # A slice with an invalid picture ends in a worker, before or after the valid slice.
        errors: list[dict[str, Any]] = []
        results: list[dict[str, Any]] = []
        while not errors or not results:
            said = await client.receive()
            {"error": errors, "result": results}.get(said["type"], []).append(said)
        await client.send("cancel", id="mark")
        while errors[-1].get("id") != "mark":
            said = await client.receive()
            {"error": errors, "result": results}.get(said["type"], []).append(said)
        assert len(errors) == 2, errors
        assert [result["id"] for result in results] == ["good"]
        assert errors[0]["code"] in CODES
        assert isinstance(errors[0]["message"], str)
        assert (await neighbour.wait_for("result", "error"))["type"] == "result"


async def has_one_error(server: Server, message: str | bytes) -> None:
    """Checks the same as has_one_answer, in the 150-character protocol."""
    good = json.dumps({"uuid": "good", "offset_top": 0, "zoom": 1}).ljust(150) + b64encode(small()).decode()
    path = f"/ws?query_string={server.token()}"
    async with websockets.connect(server.ws + path, proxy=None) as socket, await Client.connect(server) as neighbour:
        assert await socket.recv() == '{"text": "{}"}'
        await socket.send(message)
        await neighbour.slice("theirs", small())
        await socket.send(good)
        answers = [json.loads(json.loads(await socket.recv())["text"]) for _ in range(2)]
        assert sorted("url" in answer for answer in answers) == [False, True]
        assert sorted("error" in answer for answer in answers) == [False, True]
        await socket.send(good)
        assert "good" in str(await socket.recv()), "no other message may arrive before it"
        assert (await neighbour.wait_for("result", "error"))["type"] == "result"


@st.composite
def malformed_older(draw: st.DrawFn) -> str | bytes:
    """A message of the 150-character protocol with one error."""
    header: dict[str, Any] = {"uuid": "bad", "offset_top": 0, "zoom": 1}
    picture = b64encode(small()).decode()
    match draw(st.sampled_from(["missing", "changed", "not base64", "not a picture", "truncated", "text", "binary"])):
        case "missing":
            del header[draw(st.sampled_from(sorted(header)))]
        case "changed":
            header[draw(st.sampled_from(["offset_top", "zoom"]))] = draw(NO_NUMBER)
        case "not base64":
            picture = draw(st.sampled_from(["=", "A", "\u00e9", "A===="]))
        case "not a picture":
            picture = b64encode(draw(st.binary(max_size=50))).decode()
        case "truncated":
            return json.dumps(header)[: draw(st.integers(0, 30))]
        case "text":
            return draw(st.text(max_size=200))
        case _:
            return draw(st.binary(max_size=200))
    return json.dumps(header).ljust(150) + picture


SHORT = settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.timeout(900)
@SHORT
@given(message=malformed())
@example(message='{"type": "slice", "id": "a", "offset_top": 0, "data": "\u00e9"}')
@example(message='{"type": "x", "id": "%s"}' % ("x" * 5_000_000))
@example(message='{"type": "resume", "session": "%s", "epoch": "\\ud800", "after": 0}' % ("0" * 32))
async def test_a_malformed_message_gets_one_error_and_the_connection_still_works(
    server: Server, message: str | bytes
) -> None:
    """Each example uses new connections."""
    await has_one_answer(server, message)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(SHORT, max_examples=1000)
@given(message=malformed())
async def test_a_thousand_malformed_messages_get_one_error_each(server: Server, message: str | bytes) -> None:
    await has_one_answer(server, message)


@pytest.mark.timeout(900)
@settings(SHORT, max_examples=50)
@given(message=malformed_older())
async def test_a_malformed_message_of_the_150_character_protocol_gets_one_error(
    server: Server, message: str | bytes
) -> None:
    await has_one_error(server, message)
