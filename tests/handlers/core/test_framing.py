"""Tests of handlers.core.framing: the exact bytes of binary messages, and every kind of malformed message."""

import json
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.core.framing import FrameError, frame, frame_packed, pack, unpack

# No deadline for an example: on a busy machine, a slow example is not a fault of the code.
WITHOUT_DEADLINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)


@pytest.mark.parametrize(
    ("header", "payload", "message"),
    [
        ({"a": 1}, b"xyz", b'\x00\x00\x00\x07{"a":1}xyz'),
        ({}, b"", b"\x00\x00\x00\x02{}"),
        ('{"ready": true}', b"\x00\xff", b'\x00\x00\x00\x0f{"ready": true}\x00\xff'),
        ({"name": "\u00e9"}, b"", b'\x00\x00\x00\x11{"name":"\\u00e9"}'),
        ('{"name":"\u00e9"}', b"", b'\x00\x00\x00\x0d{"name":"\xc3\xa9"}'),
    ],
)
def test_pack_writes_the_length_in_bytes_then_the_header_then_the_payload(
    header: dict[str, object] | str, payload: bytes, message: bytes
) -> None:
    assert pack(header, payload) == message


@pytest.mark.parametrize(
    ("message", "text", "payload"),
    [
        (b"\x00\x00\x00\x02{}", b"{}", b""),
        (b"\x00\x00\x00\x02{}\x00\x01\x02", b"{}", b"\x00\x01\x02"),
        (b"\x00\x00\x00\x00", b"", b""),
        (b"\x00\x00\x00\x00payload", b"", b"payload"),
        (b"\x00\x00\x00\x03not JSON", b"not", b" JSON"),
    ],
)
def test_unpack_splits_header_and_payload_without_checking_them(message: bytes, text: bytes, payload: bytes) -> None:
    assert unpack(message) == (text, payload)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"", "a binary message must have at least 4 bytes; this one has 0"),
        (b"\x00", "a binary message must have at least 4 bytes; this one has 1"),
        (b"\x00\x00\x00", "a binary message must have at least 4 bytes; this one has 3"),
        (b"\x00\x00\x00\x01", "the header should have 1 bytes, but only 0 follow"),
        (b"\x00\x00\x00\x03{}", "the header should have 3 bytes, but only 2 follow"),
        (b"\x02\x00\x00\x00{}", "the header has 33,554,432 bytes; at most 65,536 are accepted"),
        (b"\xff\xff\xff\xff" + bytes(100), "the header has 4,294,967,295 bytes; at most 65,536 are accepted"),
    ],
)
def test_a_message_with_a_wrong_length_is_refused_with_both_lengths(message: bytes, error: str) -> None:
    with pytest.raises(FrameError) as caught:
        unpack(message)
    assert str(caught.value) == error


def test_the_payload_is_a_view_and_not_a_copy() -> None:
    message = pack({}, b"payload")
    assert unpack(message)[1].obj is message


@WITHOUT_DEADLINE
@given(header=st.dictionaries(st.text(), st.integers() | st.text(), max_size=4), payload=st.binary())
def test_unpack_returns_exactly_what_was_packed(header: dict[str, object], payload: bytes) -> None:
    text, rest = unpack(pack(header, payload))
    assert json.loads(text) == header
    assert rest == payload


@pytest.mark.parametrize("length", [0, 100, 1 << 10, 1 << 17])
def test_frame_packed_equals_frame_of_pack(length: int) -> None:
    assert frame_packed('{"a":"é"}', bytes(length)) == frame(pack('{"a":"é"}', bytes(length)))


@WITHOUT_DEADLINE
@given(st.binary(max_size=64))
def test_any_bytes_are_unpacked_or_refused(message: bytes) -> None:
    try:
        text, payload = unpack(message)
    except FrameError:
        return
    assert struct.pack(">I", len(text)) + text + bytes(payload) == message
