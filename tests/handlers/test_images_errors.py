"""Tests of /ws/images: each bad message and each bad picture gets exactly one clear answer. The connection and the
other clients continue.
"""

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.pictures import animated_gif, encoded, photograph, scan, small, with_pillow
from tests.support.running import Server
from works.storage.results import NAME

TEXT = '{"type": "slice", "id": "bad", "offset_top": 0}'


def png(*chunks: tuple[bytes, bytes], claim: int | None = None) -> bytes:
    """Returns a PNG of these chunks with valid checksums. ``claim`` replaces the length field of the last chunk."""
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in chunks:
        length = len(body) if claim is None or (kind, body) != chunks[-1] else claim
        out += struct.pack(">I", length) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def binary(text: bytes, payload: bytes = b"", claim: int | None = None) -> bytes:
    return struct.pack(">I", len(text) if claim is None else claim) + text + payload


def slice(**members: Any) -> bytes:
    """Returns a valid slice message with the id ``bad``. Each keyword replaces a member; the value None removes it."""
    message = {"type": "slice", "id": "bad", "offset_top": 0} | members
    text = json.dumps({name: value for name, value in message.items() if value is not None})
    return binary(text.encode(), small())


def picture(payload: bytes) -> bytes:
    return binary(TEXT.encode(), payload)


def animated(format: str) -> bytes:
    from PIL import Image as Pillow

    frames = [Pillow.fromarray(photograph()[top : top + 32, :32]) for top in (0, 32, 64)]
    return with_pillow(photograph()[:32, :32], format, save_all=True, append_images=frames)


BOMB = png((b"IHDR", header(64, 64)[1]), (b"tEXt", b"x"), claim=0x7FFFFFFF)
TRUNCATED = encoded(photograph())[:20_000]

MESSAGES: dict[str, tuple[str | bytes, str, str]] = {
    # Each case: the message, the error code, and a word that the error message must contain.
    "text that is no JSON": ("{nope", "bad_message", "not valid JSON"),
    "JSON that is no object": ("[1, 2]", "bad_message", "object"),
    "JSON nested very deep": ("[" * 60_000, "bad_message", "not valid JSON"),
    "JSON of many small lists": (f'{{"type":"viewport","x":[{"[]," * 30_000}[]]}}', "bad_message", "65,536"),
    "no type": ("{}", "bad_message", "type"),
    "a type that is an object": ('{"type": {}}', "bad_message", "type"),
    "an unknown type": ('{"type": "slize"}', "bad_message", "slize"),
    "a binary message of 3 bytes": (b"abc", "bad_message", "4 bytes"),
    "a header that is no JSON": (binary(b"{nope", small()), "bad_message", "not valid JSON"),
    "a header that is not UTF-8": (binary(b'{"type": "\xff"}', small()), "bad_message", "not valid JSON"),
    "a header longer than the message": (binary(b"{}", claim=1 << 31), "bad_message", "the header has"),
    "a misspelt member": (slice(zooom=1), "bad_message", "zooom"),
    "no id": (slice(id=None), "bad_message", "id"),
    "an empty id": (slice(id=""), "bad_message", "id"),
    "a long id": (slice(id="x" * 101), "bad_message", "100"),
    "an id that is a number": (slice(id=7), "bad_message", "id"),
    "no offset": (slice(offset_top=None), "bad_message", "offset_top"),
    "an offset that is no number": (slice(offset_top="top"), "bad_message", "offset_top"),
    "an infinite offset": (slice(offset_top=float("inf")), "bad_message", "offset_top"),
    "an offset of 4000 digits": (slice(offset_top=10**4000), "bad_message", "offset_top"),
    "a negative height": (slice(height=-1), "bad_message", "height"),
    "zoom 0": (slice(zoom=0), "bad_message", "zoom"),
    "a negative zoom": (slice(zoom=-1), "bad_message", "zoom"),
    "zoom NaN": (slice(zoom=float("nan")), "bad_message", "zoom"),
    "an infinite zoom": (slice(zoom=float("inf")), "bad_message", "zoom"),
    "zoom true": (slice(zoom=True), "bad_message", "zoom: Input should be a valid number"),
    "an offset that is true": (slice(offset_top=True), "bad_message", "offset_top"),
    "a height that is true": (slice(height=True), "bad_message", "height"),
    "a zoom in words": (slice(zoom="much"), "bad_message", "zoom"),
    "zoom 1e9": (slice(zoom=1e9), "too_many_pixels", "50,000,000"),
    "a fit of 0 x 0": (slice(fit="0x0"), "bad_message", "like 512x512"),
    "a fit that ends with a line break": (slice(fit="5x5\n"), "bad_message", "like 512x512"),
    "a fit of one side": (slice(fit="512"), "bad_message", "fit"),
    "an unknown format": (slice(format="gif"), "bad_message", "format"),
    "an unknown way to respond": (slice(respond="fax"), "bad_message", "respond"),
    "an unknown action": (slice(action="dance"), "unknown_action", "dance"),
    "an action with the name of a file": (slice(action="../resize"), "unknown_action", "resize"),
    "an unknown option": (slice(action="blur", options={"colour": 1}), "bad_options", "colour"),
    "an option of a wrong type": (slice(action="blur", options={"radius": "big"}), "bad_options", "radius"),
    "an option that is true": (slice(action="blur", options={"radius": True}), "bad_options", "radius"),
    "an option out of range": (slice(action="blur", options={"radius": 51}), "bad_options", "50"),
    "options that are a list": (slice(options=[1]), "bad_message", "options"),
    "data of an action that gives none": (slice(respond="data"), "bad_options", "respond"),
    "invalid base64": (TEXT[:-1] + ', "data": "@@@@"}', "bad_message", "data"),
    "base64 and payload": (slice(data=base64.b64encode(small()).decode()), "bad_message", "data"),
    "no picture": (TEXT, "bad_image", "empty"),
    "an empty payload": (picture(b""), "bad_image", "empty"),
    "one byte over the limit": (picture(b"\xff\xd8\xff" + bytes((16 << 20) - 2)), "too_large", "16,777,216"),
    "a text file": (picture(b"Dear reader, this was photo.jpg once.\n"), "bad_image", "not a picture"),
    "a truncated JPEG": (picture(TRUNCATED), "bad_image", ""),
    "a truncated PNG": (picture(encoded(scan(), ".png")[:-20]), "bad_image", ""),
    "a PNG that claims 30000 x 30000": (
        picture(png(header(30_000, 30_000), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))),
        "too_many_pixels",
        "30000 x 30000",
    ),
    "a PNG of 46 bytes with a chunk of 2 GB": (picture(BOMB), "bad_image", "2147483647"),
    "a GIF": (picture(animated_gif()), "unsupported_format", "GIF"),
    "an animated PNG": (picture(animated("PNG")), "unsupported_format", "frames"),
    "an animated WebP": (picture(animated("WEBP")), "unsupported_format", "frames"),
    "a BMP": (picture(encoded(scan(), ".bmp")), "unsupported_format", "BMP"),
    "cancel without a target": ('{"type": "cancel"}', "bad_message", "id or image"),
    "cancel of an id and an image": ('{"type": "cancel", "id": "a", "image": "b"}', "bad_message", "id or image"),
    "cancel of an unknown slice": ('{"type": "cancel", "id": "ghost"}', "not_found", "ghost"),
    "a viewport without top": ('{"type": "viewport", "height": 3}', "bad_message", "top"),
    "a viewport that is true": ('{"type": "viewport", "top": true, "height": 3}', "bad_message", "top"),
    "resume from true": ('{"type": "resume", "session": "x", "epoch": "y", "after": true}', "bad_message", "after"),
    "resume without an epoch": ('{"type": "resume", "session": "x", "after": 0}', "bad_message", "epoch"),
    "resume from before the start": (
        '{"type": "resume", "session": "x", "epoch": "y", "after": -1}',
        "bad_message",
        "after",
    ),
    "a new token that is not a JWT": ('{"type": "token", "token": "nope"}', "forbidden", "token"),
}


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that only the test below uses, so that no other results appear in its folder."""
    running = Server(tmp_path_factory.mktemp("own_server"))
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


@pytest.mark.parametrize("case", MESSAGES)
async def test_a_bad_message_gets_one_error_and_affects_nothing_else(own_server: Server, case: str) -> None:
    sent, code, word = MESSAGES[case]
    async with await Client.connect(own_server) as client, await Client.connect(own_server, "bob") as neighbour:
        before = set(own_server.results())
        await client.socket.send(sent)
        await neighbour.slice("theirs", small())
        error = await client.wait_for("error", "result")
        assert (error["type"], error["code"]) == ("error", code)
        assert word in error["message"]
        assert error["temporary"] is False
        assert (await neighbour.wait_for("result"))["id"] == "theirs"

        await client.slice("good", small())
        end = await client.wait_for("error", "result")
        assert (end["type"], end["id"]) == ("result", "good"), "one answer, and the connection still works"
        names = set(own_server.results()) - before
        assert len(names) == 2, "only the two valid slices may store a result"
        assert all(NAME.fullmatch(name) for name in names)


async def test_the_error_of_a_slice_names_the_slice(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.slice("a", small(), zoom=-1)
        assert (await client.receive())["id"] == "a"
        await client.slice("b", b"no picture", image="page")
        error = await client.wait_for("error")
        assert (error["id"], error["image"], error["seq"]) == ("b", "page", 1)


async def test_an_id_can_be_used_only_once(server: Server) -> None:
    async with await Client.connect(server) as client:
        await client.plug()
        await client.slice("plug", small())
        error = await client.wait_for("error")
        assert (error["code"], error["id"]) == ("bad_message", "plug")
        assert "seq" not in error, "the first slice with this id is still being processed"
        await client.send("cancel", id="plug")
        assert (await client.wait_for("error"))["code"] == "cancelled"
        await client.slice("plug", small())
        assert (await client.wait_for("error"))["code"] == "bad_message", "an id stays used after its slice has ended"


async def test_a_token_of_another_user_or_scope_is_refused(server: Server) -> None:
    async with await Client.connect(server, "alice") as client:
        for token in (server.token("bob"), server.token("alice", scope="chat")):
            await client.send("token", token=token)
            error = await client.receive()
            assert (error["type"], error["code"]) == ("error", "forbidden")
            assert token not in str(error)
        await client.slice("a", small())
        assert (await client.wait_for("result"))["id"] == "a"
