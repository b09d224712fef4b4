"""Reads the header of a JPEG, PNG or WebP file. It decodes no pixels and allocates no large memory.

Every length in the file is compared with the bytes that are there. The format is found from the first bytes, never from
a name. Sources: ITU-T T.81 annex B (JPEG), PNG third edition 5 and 11, RFC 9649 (WebP), CIPA DC-008 (Exif).
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NoReturn

from works.errors import WorkError

Buffer = bytes | memoryview
PictureFormat = Literal["jpeg", "png", "webp"]

_PNG = b"\x89PNG\r\n\x1a\n"
# Maximum number of bytes that are skipped before JPEG markers because they belong to no segment, fill bytes included.
_MOST_STRAYS = 4096
# Maximum number of segments or chunks that are read, which takes some 50 ms. 16 MiB in PNG's usual chunks of 8 KiB are
# 2,048.
_MOST_PARTS = 50_000
# Frames of the lossless processes: Huffman or arithmetic coding, each alone or differential (T.81, table B.1).
_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)
# Formats that are refused by their name: (offset, first bytes, name).
_OTHERS = (
    (0, b"GIF8", "GIF"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"%PDF", "PDF"),
    (0, b"<svg", "SVG"),
)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of a picture. Width and height in pixels are as stored, before ``orientation`` (Exif, 1 to 8) is
    applied.
    """

    format: PictureFormat
    width: int
    height: int
    frames: int = 1
    orientation: int = 1
    components: int = 3
    lossless: bool = False
    """Whether a JPEG has a lossless process. Such a file has no reduced sizes."""

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) in pixels after ``orientation`` is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(data: Buffer) -> ImageHeader:
    """Returns the header of the picture in ``data``. Raises WorkError bad_image or unsupported_format."""
    view = memoryview(data)
    start = bytes(view[:16])
    try:
        if start.startswith(b"\xff\xd8\xff"):
            header = _jpeg(view)
        elif start.startswith(_PNG):
            header = _png(view)
        elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            header = _webp(view)
        else:
            _refuse(start)
    except (struct.error, IndexError):
        _bad("the header is incomplete")
    if header.width < 1 or header.height < 1:
        _bad(f"the header claims a size of {header.width} x {header.height}")
    return header


def _refuse(start: bytes) -> NoReturn:
    for offset, magic, name in _OTHERS:
        if start[offset:].startswith(magic):
            raise WorkError("unsupported_format", f"this is {name}; send jpeg, png or webp")
    if not start:
        _bad("the payload is empty")
    _bad("these bytes are not a picture; send jpeg, png or webp")


def _bad(why: str) -> NoReturn:
    raise WorkError("bad_image", f"the picture cannot be read: {why}")


def _jpeg(data: memoryview) -> ImageHeader:
    orientation = 1
    for start, end in jpeg_segments(data):
        marker, body = data[start + 1], data[start + 4 : end]
        if marker == 0xE1 and bytes(body[:6]) == b"Exif\0\0":
            orientation = _orientation(body[6:])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", body, 1)
            lossless = marker in _LOSSLESS_FRAMES
            return ImageHeader("jpeg", width, height, 1, orientation, components, lossless)
    _bad("the JPEG has no frame header")


def jpeg_segments(data: Buffer) -> Iterator[tuple[int, int]]:
    """Yields start and end of each segment from the second to the header of the first scan. Raises WorkError bad_image.

    Fill bytes before a marker are allowed. Stray bytes, which some cameras and old editors write, are skipped.
    """
    at, marker, strays = 2, 0, _MOST_STRAYS
    for _ in range(_MOST_PARTS):
        if marker == 0xDA:
            return
        start, last = at, min(at + strays, len(data) - 4)
        while at <= last and (data[at] != 0xFF or data[at + 1] in (0x00, 0xFF)):
            at += 1
        if at > last:
            _bad("the header is incomplete or contains other data")
        strays -= at - start
        marker = data[at + 1]
        if marker == 0xD9:
            return
        length = 0
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:
            (length,) = struct.unpack_from(">H", data, at + 2)
            if length < 2 or at + 2 + length > len(data):
                _bad(f"a JPEG segment should have {length} bytes, but {len(data) - at - 2} are left")
        yield at, at + 2 + length
        at += 2 + length


def _png(data: memoryview) -> ImageHeader:
    size = (0, 0)
    frames = orientation = 1
    last = b""
    for kind, body in _png_chunks(data):
        if not last and kind != b"IHDR":
            _bad("the PNG does not start with its header")
        if kind == b"IHDR":
            size = struct.unpack_from(">II", body)
        elif kind == b"acTL":
            (frames,) = struct.unpack_from(">I", body)
        elif kind == b"eXIf":
            orientation = _orientation(body)
        last = kind
    if last != b"IEND":
        _bad("the PNG is incomplete")
    return ImageHeader("png", *size, frames=frames, orientation=orientation)


def _png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    at = 8
    for _ in range(_MOST_PARTS):
        if at >= len(data):
            return
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            _bad(f"a PNG chunk should have {length} bytes, but {max(len(data) - at - 12, 0)} are left")
        if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
            _bad("a PNG chunk is damaged (its check sum is wrong)")
        kind = bytes(data[at + 4 : at + 8])
        yield kind, data[at + 8 : end]
        if kind == b"IEND":
            return
        at = end + 4


def _webp(data: memoryview) -> ImageHeader:
    (claimed,) = struct.unpack_from("<I", data, 4)
    if claimed + 8 > len(data):
        _bad(f"the WebP should have {claimed + 8} bytes, but has {len(data)}")
    size: tuple[int, int] | None = None
    frames, orientation = 0, 1
    at = 12
    for _ in range(_MOST_PARTS):
        if at > claimed:
            break
        kind = bytes(data[at : at + 4])
        (length,) = struct.unpack_from("<I", data, at + 4)
        body = data[at + 8 : at + 8 + length]
        if len(body) < length:
            _bad(f"a WebP chunk should have {length} bytes, but {len(body)} are left")
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            orientation = _orientation(body[6:] if bytes(body[:6]) == b"Exif\0\0" else body)
        elif size is None:
            size = _webp_size(kind, body)
        at += 8 + length + (length & 1)
    if size is None:
        _bad("the WebP has no picture")
    return ImageHeader("webp", *size, frames=max(frames, 1), orientation=orientation)


def _webp_size(kind: bytes, body: memoryview) -> tuple[int, int] | None:
    if kind == b"VP8X":
        return (
            1 + int.from_bytes(body[4:7], "little"),
            1 + int.from_bytes(body[7:10], "little"),
        )
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", body, 1)
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", body, 6)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _orientation(tiff: memoryview) -> int:
    """Returns the Exif orientation, or 1 when there is none or it is invalid. An invalid one is no reason for a
    refusal.
    """
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(tiff[:2])]
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == 0x0112 and kind == 3 and 1 <= value <= 8:
                return int(value)
    except (KeyError, struct.error):
        pass
    return 1
