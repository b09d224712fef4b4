"""Binary messages of sluice.v2: a 4-byte big-endian length, the JSON of that length, and the payload.

Also WebSocket frames of any message. No I/O.
"""

import json
import struct
from typing import Any

_LENGTH = struct.Struct(">I")
# Largest header in bytes. The queue counts only payloads, so headers must be negligible.
MAX_HEADER = 64 << 10


class FrameError(ValueError):
    """The message is shorter than its length says."""


def pack(header: dict[str, Any] | str, payload: bytes) -> bytes:
    """Packs a binary message. ``header`` is an object, or its JSON text."""
    text = header if isinstance(header, str) else json.dumps(header, separators=(",", ":"))
    encoded = text.encode()
    return b"".join((_LENGTH.pack(len(encoded)), encoded, payload))


def unpack(message: bytes) -> tuple[bytes, memoryview]:
    """Returns the JSON text, not yet parsed, and the payload as a view without a copy. Raises FrameError."""
    if len(message) < _LENGTH.size:
        raise FrameError(f"a binary message must have at least {_LENGTH.size} bytes; this one has {len(message)}")
    (length,) = _LENGTH.unpack_from(message)
    if length > MAX_HEADER:
        raise FrameError(f"the header has {length:,} bytes; at most {MAX_HEADER:,} are accepted")
    start = _LENGTH.size + length
    if start > len(message):
        raise FrameError(f"the header should have {length} bytes, but only {len(message) - _LENGTH.size} follow")
    return message[_LENGTH.size : start], memoryview(message)[start:]


def frame(message: str | bytes) -> bytes:
    """Returns the message as one frame of RFC 6455 (5.2), unmasked and not compressed."""
    opcode, data = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    return _begin(opcode, len(data)) + data


def frame_packed(header: str, payload: bytes) -> bytes:
    """Same as ``frame(pack(header, payload))``, but copies the payload once instead of twice."""
    encoded = header.encode()
    length = _LENGTH.size + len(encoded) + len(payload)
    return b"".join((_begin(0x82, length), _LENGTH.pack(len(encoded)), encoded, payload))


def _begin(opcode: int, length: int) -> bytes:
    if length < 126:
        return struct.pack(">BB", opcode, length)
    if length < 1 << 16:
        return struct.pack(">BBH", opcode, 126, length)
    return struct.pack(">BBQ", opcode, 127, length)
