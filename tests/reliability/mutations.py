"""Damaged pictures: real JPEG, PNG and WebP files with flipped bits, truncated data, inserted parts of other files and
huge lengths.
"""

import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

from tests.support.pictures import encoded, photograph, scan, with_pillow


@cache
def originals() -> list[bytes]:
    photo = photograph()[:96, :128]
    return [
        encoded(photo, ".jpg"),
        encoded(scan(), ".jpg"),
        with_pillow(photo, "JPEG", progressive=True),
        encoded(photo, ".png"),
        with_pillow(photo, "PNG", mode="P"),
        encoded(photo, ".webp"),
        with_pillow(photo, "WEBP", lossless=True),
    ]


def flip(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 3, 20])):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(len(data)) :]


def splice(data: bytearray, chance: random.Random) -> None:
    other = chance.choice(originals())
    start, at = chance.randrange(len(other)), chance.randrange(len(data))
    data[at : at + chance.randrange(200)] = other[start : start + chance.randrange(400)]


def lengthen(data: bytearray, chance: random.Random) -> None:
    """Writes a huge number at a random position, where the file may store a length."""
    at = chance.randrange(max(len(data) - 4, 1))
    data[at : at + 4] = struct.pack(chance.choice("<>") + "I", chance.choice([0, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20]))


def reseal(data: bytearray, chance: random.Random) -> None:
    """Damages a PNG chunk and corrects its checksum, so that the decoder does not reject the chunk before it reads the
    damage.
    """
    at = 8
    while data[:4] == b"\x89PNG" and at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            return
        if length and chance.random() < 0.5:
            data[at + 8 + chance.randrange(length)] = chance.randrange(256)
            struct.pack_into(">I", data, end, zlib.crc32(data[at + 4 : end]))
        at = end + 4


MUTATIONS = (flip, cut, splice, lengthen, reseal)


def mutations(count: int, seed: int = 1) -> Iterator[tuple[str, bytes]]:
    """Yields ``count`` damaged pictures with their names. The same seed yields the same pictures."""
    chance = random.Random(seed)
    for number in range(count):
        data = bytearray(chance.choice(originals()))
        for _ in range(chance.choice([1, 1, 2])):
            chance.choice(MUTATIONS)(data, chance)
            if not data:
                break
        yield f"{seed}-{number}", bytes(data)
