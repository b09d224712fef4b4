"""Packs and unpacks the binary messages of sluice.v2, and builds WebSocket frames. This module does no I/O.

A binary message consists of a 4-byte big-endian length, a JSON header of that many bytes, and the payload.
"""

import json
import struct
from typing import Any

_LENGTH = struct.Struct(">I")
# The largest JSON header in bytes. The task queue counts only the bytes of payloads, so headers must stay too small to
# matter for memory.
MAX_HEADER = 64 << 10


class FrameError(ValueError):
    """The content of a binary message does not match its length field."""


def pack(header: dict[str, Any] | str, payload: bytes) -> bytes:
    """Returns a binary message. ``header`` is an object, or text that is already JSON."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    encoded = text.encode()
    return b"".join((_LENGTH.pack(len(encoded)), encoded, payload))


def unpack(message: bytes) -> tuple[bytes, memoryview]:
    """Returns the JSON header (not yet parsed) and the payload. The payload is a view of ``message``, not a copy.

    Raises FrameError when the message is too short or its length field is wrong.
    """
    if len(message) < _LENGTH.size:
        raise FrameError(f"a binary message has at least {_LENGTH.size} bytes, this has {len(message)}")
    (length,) = _LENGTH.unpack_from(message)
    if length > MAX_HEADER:
        raise FrameError(f"the header claims {length:,} bytes, at most {MAX_HEADER:,} are taken")
    start = _LENGTH.size + length
    if start > len(message):
        raise FrameError(f"the header claims {length} bytes, {len(message) - _LENGTH.size} follow")
    return message[_LENGTH.size : start], memoryview(message)[start:]


def frame(message: str | bytes) -> bytes:
    """Returns the message as one WebSocket frame (RFC 6455, section 5.2): not fragmented, not masked, not
    compressed.
    """
    opcode, data = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    return _begin(opcode, len(data)) + data


def frame_packed(header: str, payload: bytes) -> bytes:
    """Returns the same as ``frame(pack(header, payload))``, but copies the payload once instead of twice."""
    encoded = header.encode()
    length = _LENGTH.size + len(encoded) + len(payload)
    return b"".join((_begin(0x82, length), _LENGTH.pack(len(encoded)), encoded, payload))


def _begin(opcode: int, length: int) -> bytes:
    if length < 126:
        return struct.pack(">BB", opcode, length)
    if length < 1 << 16:
        return struct.pack(">BBH", opcode, 126, length)
    return struct.pack(">BBQ", opcode, 127, length)
