"""An encoder of lossless JPEGs, written from the standard (ITU-T T.81, annex H).

The tests need it because no installed library writes lossless JPEGs, and the decoder must be tested independently.
"""

import struct

import numpy as np

from works.imaging.pixels import Image

# Kinds of lossless frames: Huffman coding, differential, arithmetic coding, and arithmetic coding with differential.
SOF3, SOF7, SOF11, SOF15 = 0xC3, 0xC7, 0xCB, 0xCF


def lossless_jpeg(image: Image, frame: int = SOF3) -> bytes:
    """Returns a JPEG of exactly these pixels, (h, w) gray or (h, w, 3) BGR, uint8.

    Predictor 1: each pixel is predicted by the pixel to its left.
    """
    planes = (image[:, :, None] if image.ndim == 2 else image[:, :, ::-1]).astype(np.int32)
    height, width, count = planes.shape
    predicted = np.empty_like(planes)
    predicted[:, 1:] = planes[:, :-1]
    predicted[1:, 0] = planes[:-1, 0]
    predicted[0, 0] = 128
    bits: list[str] = []
    for difference in (planes - predicted).reshape(-1).tolist():
        size = abs(difference).bit_length()
        bits.append(f"{size:04b}")  # codes of four bits, for the sizes 0 to 8
        if size:
            bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    data = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    components = range(1, count + 1)
    header = struct.pack(">BHHB", 8, height, width, count) + b"".join(bytes((each, 0x11, 0)) for each in components)
    table = bytes((0, 0, 0, 0, 9)) + bytes(12) + bytes(range(9))
    scan = bytes((count,)) + b"".join(bytes((each, 0)) for each in components) + bytes((1, 0, 0))
    segments = _segment(frame, header) + _segment(0xC4, table) + _segment(0xDA, scan)
    return b"\xff\xd8" + segments + data + b"\xff\xd9"


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
