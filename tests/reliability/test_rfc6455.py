"""Tests the parts of RFC 6455 that Sluice implements itself. The tests send literal bytes over TCP and compare all
bytes that the server sends until the connection ends.

Tornado 6.6.1 without changes violates the RFC in three ways. It drops the connection without a close frame after a
broken frame (section 7.1.7: SHOULD send one). It accepts unmasked frames (section 5.1: MUST close). It echoes close
codes that must not be in a frame (section 7.4.1: MUST NOT). handlers/core/rfc6455.py corrects all three. Without it,
the rows of BROKEN fail as their last column says.
"""

import asyncio
import json
import signal
import struct
import time

import pytest

from tests.reliability.harness import Cost, healthy, tried
from tests.reliability.raw import BINARY, CLOSE, KEY, PING, PONG, TEXT, Raw, answer, closing, frame, thin
from tests.support.client import Client, upgrade
from tests.support.pictures import small
from tests.support.running import GUARD, Server, Start, until

pytestmark = pytest.mark.chaos

BYE = b"\x88\x82" + KEY + b"\x03\xe8"
GOODBYE = b"\x88\x02\x03\xe8"


def error_answer(message: str) -> bytes:
    """Returns the frame that answers a message with the error bad_message."""
    error = {"type": "error", "code": "bad_message", "message": message, "temporary": False}
    return answer(TEXT, json.dumps(error, separators=(",", ":")).encode())


# The exact answer to the message "[]" is known. Half of this message gets a different answer.
LIST = error_answer("the message must be a JSON object")
NOT_JSON = error_answer("the message is not valid JSON")

FRAMES: dict[str, tuple[bytes, bytes]] = {
    # Each case: the bytes that the client sends, and all bytes that the server sends. Section 5.2: FIN, opcode, mask,
    # length.
    "text": (b"\x81\x82" + KEY + b"[]" + BYE, LIST + GOODBYE),
    "text masked as in 5.7 of the RFC": (b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58" + BYE, NOT_JSON + GOODBYE),
    "binary": (b"\x82\x86" + KEY + b"\0\0\0\2[]" + BYE, LIST + GOODBYE),
    "an empty text": (b"\x81\x80" + KEY + BYE, NOT_JSON + GOODBYE),
    "a length in more bytes than it needs": (
        b"\x81\xfe\0\2" + KEY + b"[]" + BYE,
        LIST + GOODBYE,
    ),  # section 5.2: the encoding of the length MUST be minimal
    # Section 5.4: fragments.
    "text in fragments": (b"\x01\x81" + KEY + b"[" + b"\x80\x81" + KEY + b"]" + BYE, LIST + GOODBYE),
    "binary in fragments, cut in the length": (
        b"\x02\x83" + KEY + b"\0\0\0" + b"\x00\x82" + KEY + b"\2[" + b"\x80\x81" + KEY + b"]" + BYE,
        LIST + GOODBYE,
    ),
    "empty fragments": (
        b"\x01\x80" + KEY + b"\x00\x82" + KEY + b"[]" + b"\x00\x80" + KEY + b"\x80\x80" + KEY + BYE,
        LIST + GOODBYE,
    ),
    "a character cut in two by fragments": (
        b"\x01\x81" + KEY + b"\xc3" + b"\x80\x81" + KEY + b"\xa9" + BYE,
        NOT_JSON + GOODBYE,
    ),
    # Section 5.5: control frames may be between fragments, and are answered immediately.
    "a ping and a pong between fragments": (
        b"\x01\x81"
        + KEY
        + b"["
        + b"\x89\x82"
        + KEY
        + b"hi"
        + b"\x8a\x81"
        + KEY
        + b"?"
        + b"\x80\x81"
        + KEY
        + b"]"
        + BYE,
        b"\x8a\x02hi" + LIST + GOODBYE,
    ),
    "a close between fragments": (b"\x01\x81" + KEY + b"[" + BYE, GOODBYE),
    "a ping without payload": (b"\x89\x80" + KEY + BYE, b"\x8a\x00" + GOODBYE),
    "a ping of 125 bytes": (b"\x89\xfd" + KEY + b"x" * 125 + BYE, b"\x8a\x7d" + b"x" * 125 + GOODBYE),
    "a pong without a ping": (b"\x8a\x82" + KEY + b"hi" + BYE, GOODBYE),
    # Section 5.5.1: the server answers a close with the same code, and ignores all later frames.
    "a close without a code": (b"\x88\x80" + KEY, b"\x88\x00"),
    "a close with a reason": (b"\x88\x85" + KEY + b"\x03\xe8bye", GOODBYE),
    "data after close": (BYE + b"\x81\x82" + KEY + b"[]" + b"\x89\x80" + KEY + b"\x88\x80" + KEY, GOODBYE),
    "broken frames after close": (BYE + b"\xff\xff\xff\xff", GOODBYE),
    **{
        f"close code {code}": (b"\x88\x82" + KEY + struct.pack(">H", code), closing(code))
        for code in (1001, 1002, 1003, 1007, 1011, 1014, 3000, 4000, 4999)
    },
}

BROKEN: dict[str, tuple[bytes, int, str]] = {
    # Each case: the bytes that the client sends, the close code that the RFC requires, and what Tornado does by itself.
    "reserved bit 1": (b"\xc1\x82" + KEY + b"[]", 1002, "drops"),  # section 5.2
    "reserved bit 2": (b"\xa1\x82" + KEY + b"[]", 1002, "drops"),
    "reserved bit 3": (b"\x91\x82" + KEY + b"[]", 1002, "drops"),
    "a reserved bit of a ping": (b"\xc9\x80" + KEY, 1002, "drops"),
    "opcode 3": (b"\x83\x82" + KEY + b"[]", 1002, "drops"),
    "opcode 7 in fragments": (b"\x07\x81" + KEY + b"[" + b"\x80\x81" + KEY + b"]", 1002, "drops"),
    "opcode 11": (b"\x8b\x80" + KEY, 1002, "drops"),
    "opcode 15": (b"\x8f\x80" + KEY, 1002, "drops"),
    "an unmasked text": (b"\x81\x02[]", 1002, "answers it"),  # section 5.1
    "an unmasked ping": (b"\x89\x00", 1002, "answers it"),
    "a continuation without a first fragment": (b"\x80\x82" + KEY + b"[]", 1002, "drops"),  # section 5.4
    "a new text between fragments": (b"\x01\x81" + KEY + b"[" + b"\x81\x82" + KEY + b"[]", 1002, "drops"),
    "a ping in fragments": (b"\x09\x81" + KEY + b"x" + b"\x80\x81" + KEY + b"y", 1002, "drops"),  # section 5.5
    "a close in fragments": (b"\x08\x82" + KEY + b"\x03\xe8", 1002, "drops"),
    "a ping of 126 bytes": (b"\x89\xfe\0\x7e" + KEY + b"x" * 126, 1002, "drops"),
    "a close of 126 bytes": (b"\x88\xfe\0\x7e" + KEY + b"\x03\xe8" + b"x" * 124, 1002, "drops"),
    "a close of one byte": (b"\x88\x81" + KEY + b"\x03", 1002, "answers it without a code"),  # section 5.5.1
    "a close whose reason is no UTF-8": (b"\x88\x83" + KEY + b"\x03\xe8\xff", 1007, "drops"),
    "a byte that is no UTF-8": (b"\x81\x81" + KEY + b"\xff", 1007, "drops"),  # section 8.1
    "a character in more bytes than it needs": (b"\x81\x82" + KEY + b"\xc0\xaf", 1007, "drops"),
    "half of a surrogate pair": (b"\x81\x83" + KEY + b"\xed\xa0\x80", 1007, "drops"),
    "a code point beyond the last": (b"\x81\x84" + KEY + b"\xf4\x90\x80\x80", 1007, "drops"),
    "a text that ends inside a character": (b"\x81\x81" + KEY + b"\xc3", 1007, "drops"),
    "fragments that end inside a character": (b"\x01\x80" + KEY + b"\x80\x81" + KEY + b"\xc3", 1007, "drops"),
    "a length of 30 MiB": (b"\x81\xff\0\0\0\0\1\xe0\0\0" + KEY, 1009, "answers 1009"),  # section 7.4.1
    # section 5.2: the first bit MUST be 0
    "a length of 2^64 - 1": (b"\x82\xff" + b"\xff" * 8 + KEY, 1009, "answers 1009"),
    "fragments of 30 MiB": (
        b"\x01\x81" + KEY + b"[" + b"\x80\xff\0\0\0\0\1\xe0\0\0" + KEY,
        1009,
        "answers 1009",
    ),
    **{
        f"close code {code}": (b"\x88\x82" + KEY + struct.pack(">H", code), 1002, "echoes it")  # section 7.4
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
}


async def exchange(server: Server, sent: bytes) -> bytes:
    """Returns all bytes that the server sends until it ends the connection."""
    async with await Raw.upgraded(server) as raw:
        raw.send(sent)
        return await raw.rest()


@pytest.mark.parametrize("case", FRAMES)
async def test_frames_are_answered_to_the_byte(server: Server, case: str) -> None:
    sent, expected = FRAMES[case]
    assert await exchange(server, sent) == expected


@pytest.mark.parametrize("case", BROKEN)
async def test_a_broken_frame_is_answered_with_the_code_that_the_rfc_requires(server: Server, case: str) -> None:
    """The server answers with one close frame and nothing else, although the client has sent more frames.

    Tornado without changes does this only for the code 1009.
    """
    sent, code, _ = BROKEN[case]
    got = await exchange(server, sent + b"\x81\x82" + KEY + b"[]" + BYE)
    assert got[:1] == b"\x88"
    assert len(got) == 2 + got[1]
    assert struct.unpack_from(">H", got, 2) == (code,)
    assert got[4:].decode(), "the close must contain a reason"


@pytest.mark.parametrize(
    "frames",
    [[frame(BINARY, bytes(1 << 20))], [frame(0x02, bytes(30_000)), *[frame(0x00, bytes(30_000))] * 20]],
    ids=["in one frame", "in fragments"],
)
async def test_a_message_too_large_gets_a_close_even_after_all_of_it_was_sent(
    start: Start, frames: list[bytes]
) -> None:
    """The client sends the whole message, and then even more bytes.

    Tornado without changes closes the connection with unread bytes. The system then resets the connection, and the
    client may lose the close frame. Sluice also does this, but only after five seconds. A test that was paused for
    longer tries again.
    """
    server = start(max_slice_bytes=1000)

    async def attempt() -> float | None:
        async with await Raw.upgraded(server) as raw:
            started = time.monotonic()
            try:
                raw.send(*frames)
                got = await asyncio.wait_for(raw.reader.read(), GUARD)
                assert got[:1] == b"\x88"
                assert struct.unpack_from(">H", got, 2) == (1009,)
                raw.send(bytes(32 << 20))
                await asyncio.wait_for(raw.writer.drain(), GUARD)
            except ConnectionError:
                return time.monotonic() - started
        return None

    await tried(5, attempt)


async def test_every_connection_is_counted_until_its_end_and_disturbs_no_other(start: Start) -> None:
    server = start(connections_per_user=200, connections_per_address=200)
    rows = [sent for sent, *_ in (*FRAMES.values(), *BROKEN.values())]
    async with await Client.connect(server, "bob") as neighbour:
        await asyncio.gather(*(exchange(server, sent + BYE) for sent in rows))
        await until(lambda: server.metric("sluice_connections") == 1)
        await neighbour.slice("theirs", small())
        assert (await neighbour.wait_for("result"))["id"] == "theirs"
    unexpected = [line for line in server.log[1:] if '"level": "info"' not in line]
    assert unexpected == [], "nothing above level info may be logged"


HALF: dict[str, tuple[bytes, bytes]] = {
    # Each case: the bytes that the client sends before it ends its half of the TCP connection, and all bytes that the
    # server sends (section 7.1.1).
    "before any frame": (b"", b""),
    "inside the header of a frame": (b"\x81", b""),
    "inside a frame": (b"\x81\x82" + KEY + b"[", b""),
    "between fragments": (b"\x01\x82" + KEY + b"[]", b""),
    "after a message": (b"\x81\x82" + KEY + b"[]", LIST),
    "after a ping": (b"\x89\x82" + KEY + b"hi", b"\x8a\x02hi"),
    "after a close": (BYE, GOODBYE),
}


@pytest.mark.parametrize("case", HALF)
async def test_a_half_closed_connection_gets_answers_to_complete_messages(server: Server, case: str) -> None:
    sent, expected = HALF[case]
    async with await Raw.upgraded(server) as raw:
        raw.send(sent)
        raw.writer.write_eof()
        assert await raw.rest() == expected


async def test_a_flood_of_pings_is_answered_to_the_end_and_delays_no_other_client(server: Server) -> None:
    """Section 5.5.3: a server MAY answer only the latest of several pings. Measured: all 20,000 are answered within 0.6
    s.
    """
    async with await Raw.upgraded(server) as raw, await Client.connect(server, "bob") as neighbour:
        raw.send(*(frame(PING, b"%05d" % number) for number in range(20_000)))
        await neighbour.slice("theirs", small())
        assert (await neighbour.wait_for("result"))["id"] == "theirs"
        pongs = [await raw.frame()]
        while pongs[-1][1] != b"19999":
            pongs.append(await raw.frame())
        assert {first for first, _ in pongs} == {PONG}
        assert pongs == sorted(set(pongs)), "in order, none twice"


async def test_unread_pongs_do_not_accumulate(start: Start) -> None:
    """The answers to these pings have 12 MB in total. Tornado stores only the pong that is being sent and the latest
    pong. Tornado 6.5 stored all of them.
    """
    server = start()
    await healthy(server)
    loop = asyncio.get_running_loop()
    with thin(server) as unread:
        unread.setblocking(False)
        await loop.sock_sendall(unread, upgrade("/ws/images", server.token()))
        before = Cost.of(server)
        for _ in range(100):
            await loop.sock_sendall(unread, frame(PING, b"x" * 125) * 1000)
        await loop.sock_sendall(unread, frame(PING, b"last"))
        await healthy(server)
        assert Cost.of(server).memory - before.memory < 8 << 20
        got = b""
        while not got.endswith(b"\x8a\x04last"):
            data = await asyncio.wait_for(loop.sock_recv(unread, 1 << 16), GUARD)
            assert data, "the connection must stay open"
            got += data


async def test_the_closes_of_the_server_have_exact_bytes_and_end_when_answered(start: Start) -> None:
    """Section 7.1.1: the server ends the TCP connection after it has received the close of the client. It waits for
    this close for 5 s at most.
    """
    server = start(messages_per_second=5)
    async with await Raw.upgraded(server) as raw:
        # The server accepts ten messages immediately, and one more every 0.2 s.
        raw.send(*[frame(TEXT, b"[]")] * 1000)
        assert await raw.reader.readexactly(10 * len(LIST)) == 10 * LIST
        while (got := await raw.frame())[0] == TEXT:
            assert LIST.endswith(got[1])
        assert got == (CLOSE, b"\x11\x4dtoo many messages a second (messages_per_second); send more slowly")
        raw.send(frame(CLOSE, b"\x11\x4d"))
        assert await raw.rest() == b""
    async with await Raw.upgraded(server) as answering, await Raw.upgraded(server) as silent:
        server.process.send_signal(signal.SIGTERM)
        for raw in (answering, silent):
            assert await raw.frame() == (CLOSE, b"\x03\xf4server is restarting; reconnect")
        answering.send(frame(CLOSE, b"\x03\xf4"))
        assert await answering.rest() == b""
        assert await silent.rest() == b"", "the server does not wait for a client that does not answer"
    assert await asyncio.to_thread(server.ended) == 0
