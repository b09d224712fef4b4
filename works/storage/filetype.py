"""Recognises an uploaded file by its bytes, never by its name: pictures, audio, video, and zip.

Some structures of each format are checked, so that a file that only starts like a format is refused. Whether a picture
can be decoded is found out later, by the decoder (works/imaging/pipeline.py). Sources: ISO 14496-12 (mp4), RFC 9559
(webm), RFC 3533 (ogg), RFC 9639 (flac), ISO 11172-3 and id3.org (mp3), GIF89a, PKWARE APPNOTE (zip).
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal

from works.errors import WorkError

_ACCEPTED = "jpeg, png, webp and gif, mp3, ogg, wav, m4a and flac, mp4 and webm, and zip for jobs"
# Bytes from the start of a file that are enough for the first structures of every format.
_START = 4096
# Most ISO boxes that are read before the index is found, and most blocks of a GIF: 16 MiB in blocks of 255 bytes are
# 65,793.
_MOST_BOXES, _MOST_BLOCKS = 1000, 200_000
_LARGEST_MOOV = 16 << 20
_LONGEST_ZIP_END = 22 + 65_535
_AUDIO_BRANDS = (b"M4A ", b"M4B ")
_VIDEO_BRANDS = (b"isom", b"iso2", b"iso4", b"iso5", b"iso6", b"mp41", b"mp42", b"avc1", b"M4V ", b"dash", b"MSNV")
_OGG_AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ")
# Kilobits a second of MPEG-1 and of MPEG-2 layer III by the four bits in the frame header, and samples a second by two
# bits.
_MP3_RATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_MP3_SAMPLES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


Group = Literal["image", "audio", "video", "archive"]
_GROUPS: dict[str, Group] = {"image": "image", "audio": "audio", "video": "video", "application": "archive"}


@dataclass(frozen=True, slots=True)
class FileType:
    """``suffix`` is that of the stored file, ``type`` is the content type for browsers."""

    suffix: str
    type: str

    @property
    def group(self) -> "Group":
        return _GROUPS[self.type.partition("/")[0]]


JPEG, PNG, WEBP, GIF = (
    FileType(f".{end}", f"image/{end.replace('jpg', 'jpeg')}") for end in ("jpg", "png", "webp", "gif")
)
MP3, M4A = FileType(".mp3", "audio/mpeg"), FileType(".m4a", "audio/mp4")
OGG, WAV, FLAC = (FileType(f".{name}", f"audio/{name}") for name in ("ogg", "wav", "flac"))
MP4, WEBM, WEBA = FileType(".mp4", "video/mp4"), FileType(".webm", "video/webm"), FileType(".weba", "audio/webm")
ZIP = FileType(".zip", "application/zip")
FILE_TYPES = {kind.suffix: kind for kind in (JPEG, PNG, WEBP, GIF, MP3, OGG, WAV, M4A, FLAC, WEBA, MP4, WEBM, ZIP)}


def detect(file: BinaryIO) -> FileType:
    """Returns the type of a complete file. Raises WorkError unsupported_format."""
    start = file.read(_START)
    kind = _by_magic(start) or _by_structure(file, start)
    if kind is None:
        form = "a form: send the file itself as the body" if start[:2] == b"--" else "none of these"
        raise WorkError("unsupported_format", f"this server accepts {_ACCEPTED}; this is {form}")
    return kind


def _by_magic(start: bytes) -> FileType | None:
    if start.startswith(b"\xff\xd8\xff"):
        return JPEG
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PNG
    if start[:6] in (b"GIF87a", b"GIF89a"):
        return GIF
    if start[:4] == b"RIFF":
        return {b"WEBP": WEBP, b"WAVE": WAV}.get(start[8:12])
    # The first block of a FLAC file must be its stream info, of 34 bytes.
    if start[:8] in (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22"):
        return FLAC
    return None


def _by_structure(file: BinaryIO, start: bytes) -> FileType | None:
    if start[4:8] == b"ftyp":
        return _iso(file, start)
    if start[:4] == b"OggS":
        # The first page starts a stream, and its packet starts with the name of the codec.
        first = start[27 + start[26] :] if len(start) > 27 and start[5] & 0x02 else b""
        return OGG if first.startswith(_OGG_AUDIO) else None
    if start[:4] == b"\x1a\x45\xdf\xa3":
        return _webm(file, start)
    if start[:4] == b"PK\3\4":
        return _zip(file)
    return MP3 if _is_mp3(file, start) else None


def _iso(file: BinaryIO, start: bytes) -> FileType | None:
    """Checks for an mp4 with a brand that browsers play, and with an index. The kind is video if one of its tracks is a
    video track.
    """
    brand = start[8:12]
    if brand not in _AUDIO_BRANDS + _VIDEO_BRANDS:
        return None
    for kind, at, end in _boxes(file, file.seek(0, os.SEEK_END)):
        if kind == b"moov" and end - at <= _LARGEST_MOOV:
            file.seek(at)
            # A handler box (section 8.4.3) names the type of its track, after eight zero bytes.
            index = file.read(end - at)
            video, audio = (b"hdlr" + bytes(8) + handler in index for handler in (b"vide", b"soun"))
            return MP4 if video else M4A if audio else None
    return None


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yields type, start and end of each top-level box, up to the first one that is incomplete."""
    at = 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4]), head[4:8]
        if length == 1:
            length = int.from_bytes(head[8:16])
        end = at + length if length else size
        if end < at + 8 or end > size:
            return
        yield kind, at, end
        at = end


def _webm(file: BinaryIO, start: bytes) -> FileType | None:
    """Checks for DocType (0x4282) webm and the name of a video or audio codec (0x86)."""
    if b"\x42\x82\x84webm" not in start[:64]:
        return None
    file.seek(0)
    head = file.read(1 << 18)
    for kind, codecs in ((WEBM, (b"V_VP8", b"V_VP9", b"V_AV1")), (WEBA, (b"A_OPUS", b"A_VORBIS"))):
        if any(bytes((0x86, 0x80 | len(codec))) + codec in head for codec in codecs):
            return kind
    return None


def _zip(file: BinaryIO) -> FileType | None:
    """Checks for a local entry (section 4.3.7) at the start, and the end of the central directory (4.3.16)
    at the end.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LONGEST_ZIP_END))
    return ZIP if b"PK\5\6" in file.read() else None


def _is_mp3(file: BinaryIO, start: bytes) -> bool:
    """Checks for two frames in a row, after an ID3 tag or at the start. A single frame occurs in any file by chance."""
    at = 0
    if start[:3] == b"ID3" and len(start) > 10:
        at = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=True))
    for _ in range(2):
        file.seek(at)
        length = _mp3_frame(file.read(4))
        if not length:
            return False
        at += length
    return True


def _mp3_frame(head: bytes) -> int:
    """Returns the length of the layer III frame with this header in bytes, or 0 when it is not one."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, samples = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _MP3_SAMPLES or not 0 < rate < 15 or samples == 3:
        return 0
    bits = 1000 * _MP3_RATES[version != 3][rate]
    return (144 if version == 3 else 72) * bits // _MP3_SAMPLES[version][samples] + (head[2] >> 1 & 1)


def gif_size(data: bytes) -> tuple[int, int]:
    """Returns (width, height) in pixels of a complete GIF with any number of frames. Raises WorkError bad_image."""
    try:
        width, height, flags = struct.unpack_from("<HHB", data, 6)
        frames = 0
        for mark, at in _gif_blocks(data, 13 + _table(flags)):
            if mark == 0x2C:
                left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
                if left + wide > width or top + high > height:
                    raise WorkError("bad_image", "a frame of the GIF is outside of the picture")
                frames += 1
    except (struct.error, IndexError):
        raise WorkError("bad_image", "the GIF is incomplete") from None
    if not (width and height and frames):
        raise WorkError("bad_image", "the GIF has no picture")
    return width, height


def _gif_blocks(data: bytes, at: int) -> Iterator[tuple[int, int]]:
    """Yields the introducer byte and the start of each frame and extension. Raises WorkError, or IndexError when data
    end early.
    """
    left = _MOST_BLOCKS
    while (mark := data[at]) != 0x3B:
        if mark not in (0x21, 0x2C) or left < 0:
            raise WorkError("bad_image", "the GIF is damaged, or has too many blocks")
        yield mark, at
        at += 11 + _table(data[at + 9]) if mark == 0x2C else 2
        while (length := data[at]) and left >= 0:
            at += 1 + length
            left -= 1
        at += 1
        left -= 1


def _table(flags: int) -> int:
    """Returns the bytes of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
