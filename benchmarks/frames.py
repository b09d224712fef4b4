"""WebSocket frames, built and masked before the clock starts.

A frame is a head and a payload, which are sent one after the other. Heads are short and contain the id. All frames of
one slice share the same payload, which is masked only once: the JSON is padded, so that the payload always starts at
the same position of the mask.
"""

import base64
import json
import os
import struct
from collections.abc import Sequence

import numpy as np

Frame = tuple[bytes, bytes]

TEXT, BINARY, CLOSE, PONG = 0x1, 0x2, 0x8, 0xA
HEADER_LENGTH = 150
# The key has no zero bytes, because some servers skip unmasking when the mask is zero.
KEY = bytes(byte | 1 for byte in os.urandom(4))


def masked(data: bytes, at: int = 0) -> bytes:
    """Returns ``data`` masked for the position ``at`` (in bytes) of the message."""
    key = np.roll(np.frombuffer(KEY, np.uint8), -at % 4)
    return (np.frombuffer(data, np.uint8) ^ np.resize(key, len(data))).tobytes()


def head(opcode: int, body: bytes, beyond: int = 0) -> bytes:
    """Returns the header of the frame and the masked start of its message. The caller sends ``beyond`` more bytes after
    it.
    """
    length = len(body) + beyond
    if length < 126:
        lengths = struct.pack(">B", 0x80 | length)
    elif length < 1 << 16:
        lengths = struct.pack(">BH", 0x80 | 126, length)
    else:
        lengths = struct.pack(">BQ", 0x80 | 127, length)
    return bytes([0x80 | opcode]) + lengths + KEY + masked(body)


def message(**members: object) -> Frame:
    """Returns a text message with these members as JSON."""
    return head(TEXT, json.dumps(members).encode()), b""


def close() -> Frame:
    """Returns a close frame with code 1000, by which the client says that it will not return."""
    return head(CLOSE, struct.pack(">H", 1000)), b""


def slice_head(id: int, length: int, **members: object) -> bytes:
    header = {"type": "slice", "id": f"{id:06}", "offset_top": id * 256, "zoom": 0.5} | members
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 4) * 4)
    return head(BINARY, struct.pack(">I", len(text)) + text, length)


def binary(slices: Sequence[bytes], count: int, **members: object) -> list[Frame]:
    """Returns ``count`` slices for sluice.v2, with ids from 000000 on."""
    payloads = [masked(data) for data in slices]
    return [
        (slice_head(id, len(payload), **members), payload)
        for id, payload in zip(range(count), payloads * (count // len(payloads) + 1), strict=False)
    ]


def text(slices: Sequence[bytes], count: int) -> list[Frame]:
    """Returns ``count`` slices for the 150-character protocol."""
    payloads = [masked(base64.b64encode(data), HEADER_LENGTH) for data in slices]
    frames = []
    for id in range(count):
        payload = payloads[id % len(payloads)]
        header = json.dumps({"uuid": id, "offset_top": id * 256, "zoom": 0.5}).ljust(HEADER_LENGTH)
        frames.append((head(TEXT, header.encode(), len(payload)), payload))
    return frames
