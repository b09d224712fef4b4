"""Zip files for the tests, valid files and malicious ones."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, mode: int = 0o644 | stat.S_IFREG) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in files.items():
            entry = zipfile.ZipInfo("x" * len(name))
            entry.filename = name  # set afterwards, because the constructor would correct an invalid name
            entry.compress_type, entry.external_attr = method, mode << 16
            file.writestr(entry, data)
    return out.getvalue()


def with_flags(data: bytes, flags: int) -> bytes:
    """Returns the zip with these bits set in the flags of each entry, in the local header and in
    the central directory.
    """
    out = bytearray(data)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = -1
        while (at := out.find(mark, at + 1)) >= 0:
            out[at + place] |= flags & 0xFF
    return bytes(out)


def overlapping(data: bytes, count: int) -> bytes:
    """Returns a zip bomb as described by David Fifield.

    Its ``count`` entries, 00.jpg, 01.jpg and so on, all refer to the same bytes of the file.
    """
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = packed.compress(data) + packed.flush()
    fields = struct.pack("<HHHHHIII", 20, 0, 8, 0, 0, zlib.crc32(data), len(body), len(data))
    local = b"PK\3\4" + fields + struct.pack("<HH", 6, 0) + b"00.jpg" + body
    listed = b"".join(
        b"PK\1\2\x14\0" + fields + struct.pack("<HHHHHII", 6, 0, 0, 0, 0, 0, 0) + f"{n:02}.jpg".encode()
        for n in range(count)
    )
    return local + listed + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(listed), len(local), 0)
