"""Reads zip files of untrusted users. They are checked completely first, then read picture by picture into memory.

A zip is refused as a whole for: paths that lead out of its folder, links, names that would overwrite each other,
encrypted entries, and zip bombs (too many entries, too many bytes when unpacked, a ratio that no picture has, entries
that share bytes). Damage in one picture concerns only that picture. Source: PKWARE APPNOTE 6.3.10, most of which
Python's zipfile can read.
"""

import io
import itertools
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from works.errors import WorkError
from works.jobs.batch.inputs import (
    UNSAFE,
    Picture,
    Pictures,
    in_natural_order,
    is_picture,
    open_plain_file,
    read_bounded,
    safe_name,
)
from works.jobs.batch.settings import BatchSettings

# Bits of the general purpose flag (4.4.4): encrypted, strongly encrypted, names masked.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
# Accepted methods. Other methods need memory that a tiny archive can choose: LZMA up to 4 GiB.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Average bytes of an entry in the central directory, and bytes of a local header without its name (4.3.7).
_ENTRY_BYTES, _HEADER_BYTES = 256, 30
# Bytes at the end of the file in which the end of the central directory is searched (4.3.16).
_END_BYTES = 22 + 65_536
# Below this size a high ratio is allowed, because a blank page has one.
_SMALL_BYTES = 1 << 20
# Maximum number of bytes of one part of a path, as in file systems.
_LONGEST_NAME = 255
_DRIVE = re.compile(r"[A-Za-z]:")


class _Guarded(io.BufferedReader):
    """A file that returns at most ``most`` bytes per read, if that is set. zipfile reads the central directory in one
    piece.
    """

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Returns up to ``size`` bytes. Raises WorkError when zipfile requests more than ``most``."""
        if self.most is None:
            return super().read(size)
        # zipfile reads the rest of the file when it searches the end: at most 64 KiB, unless the file grows at the same
        # time.
        size = self.most if size is None or size < 0 else size
        if size > self.most:
            raise WorkError("too_large", "the zip's central directory is too long (batch_pictures)")
        return super().read(size)


def open_archive(path: Path, settings: BatchSettings, most_bytes: int) -> Pictures:
    """The pictures of a zip, sorted by name. ``most_bytes``: limit of one picture. It must be closed.

    Its methods wait for the disk. Raises WorkError.
    """
    file = _Guarded(open_plain_file(path))
    try:
        file.most = max(settings.batch_pictures * _ENTRY_BYTES, _END_BYTES)
        archive = _read_list(file)
        file.most = None
        entries = archive.infolist()
        _check_bomb(entries, archive.start_dir, settings)
        files = _check_names(entries)
    except BaseException:
        file.close()
        raise
    items = [
        Picture(safe_name(name), partial(_read, archive, entry, most_bytes))
        for name, entry in files.items()
        if is_picture(name)
    ]
    return Pictures(in_natural_order(items), len(files) - len(items), file.close)


def _read_list(file: _Guarded) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except NotImplementedError as error:
        raise WorkError("unsupported_format", f"the zip cannot be read: {error}") from None
    # Any of these exceptions can result from an invalid central directory.
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, OSError, EOFError):
        raise WorkError("unsupported_format", "the file is not a zip, is incomplete or damaged") from None


def _check_bomb(entries: Sequence[zipfile.ZipInfo], end: int, settings: BatchSettings) -> None:
    """``end``: where the entries end and the central directory starts."""
    if len(entries) > settings.batch_pictures:
        raise WorkError("too_large", f"the zip has more than {settings.batch_pictures:,} entries (batch_pictures)")
    total = sum(entry.file_size for entry in entries)
    if total > settings.archive_bytes:
        most = f"at most {settings.archive_bytes:,} are accepted (archive_bytes)"
        raise WorkError("too_large", f"the zip unpacks to {total:,} bytes; {most}")
    for entry in entries:
        if entry.file_size > max(_SMALL_BYTES, settings.archive_ratio * entry.compress_size):
            grows = f"{printable(entry.filename)} would grow more than {settings.archive_ratio} times (archive_ratio)"
            raise WorkError("too_large", f"the zip is refused as a zip bomb: {grows}")
    ordered = sorted(entries, key=lambda entry: entry.header_offset)
    begins = [entry.header_offset for entry in ordered[1:]] + [end]
    for entry, next_begins in zip(ordered, begins, strict=False):
        if entry.header_offset + _HEADER_BYTES + entry.compress_size > next_begins:
            raise WorkError(
                "too_large", f"the zip is refused as a zip bomb: {printable(entry.filename)} overlaps another"
            )


def _check_names(entries: Sequence[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Returns the entries that are files, sorted by name. Raises WorkError for a zip that must not or cannot be
    unpacked.
    """
    files: dict[str, zipfile.ZipInfo] = {}
    taken: dict[str, str] = {}
    for entry in entries:
        if why := _fault(entry):
            raise WorkError("unsupported_format", f"the zip is refused: {printable(entry.orig_filename)} {why}")
        if entry.is_dir():
            continue
        name = "/".join(part for part in entry.filename.split("/") if part not in ("", "."))
        key = unicodedata.normalize("NFC", name).casefold()
        if key in taken:
            which = f"{printable(taken[key])} and {printable(name)} would overwrite each other"
            raise WorkError("unsupported_format", f"the zip is refused: {which}")
        taken[key], files[name] = name, entry
    for key, name in taken.items():
        above = itertools.accumulate(key.split("/")[:-1], "{}/{}".format)
        if any(folder in taken for folder in above):
            raise WorkError("unsupported_format", f"the zip is refused: {printable(name)} is inside of a file")
    return files


def _fault(entry: zipfile.ZipInfo) -> str:
    """Returns why this entry makes the zip unacceptable, or an empty string."""
    if why := _bad_name(entry.orig_filename) or ("has two names" if entry.filename != entry.orig_filename else ""):
        return why
    mode = stat.S_IFMT(entry.external_attr >> 16)
    if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if mode == stat.S_IFLNK else "is not a regular file"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted; send it without a password"
    if entry.compress_type not in _METHODS:
        return f"has an unsupported compression method ({entry.compress_type}); use deflate"
    return ""


def _bad_name(name: str) -> str:
    if UNSAFE.search(name):
        return "has control characters in its name"
    if "\\" in name:
        return "has a backslash in its name"
    if name.startswith("/") or _DRIVE.match(name):
        return "has an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of its folder"
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        return "has a name that is too long"
    return ""


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, most: int) -> bytes:
    if entry.file_size > most:
        raise WorkError(
            "too_large", f"it has {entry.file_size:,} bytes; at most {most:,} are accepted (max_slice_bytes)"
        )
    try:
        with archive.open(entry) as file:
            return read_bounded(file, most)
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError, OSError, struct.error, zlib.error):
        raise WorkError("bad_image", "the picture is damaged in the zip") from None


def printable(name: str) -> str:
    """Returns the name in ASCII and shortened, for messages."""
    return ascii(name if len(name) <= 80 else f"{name[:60]}...{name[-16:]}")
