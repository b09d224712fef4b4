"""The pictures and films of a job: from folders that the settings name, or from uploads of its user.

A user names a folder of the settings, never a path on the server's disk. Symbolic links in it are not followed.
"""

import asyncio
import errno
import fnmatch
import hashlib
import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from works.errors import WorkError
from works.jobs import JobContext
from works.storage.uploads_store import Attachment
from works.uploads import Uploads

# Files with these suffixes are treated as pictures. Whether they really are is known when they are decoded.
_PICTURES = frozenset(("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jp2"))
_DIGITS = re.compile(r"(\d+)")
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that change the direction of writing, and surrogates."""

_LONGEST_NAME = 200
# The folders in front of a file's name, in the form of any operating system.
_FOLDERS = re.compile(r"^.*[/\\]|^[A-Za-z]:", re.DOTALL)
# Bytes that are copied at a time.
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture or film. ``read`` waits for the disk and raises WorkError for a file that cannot be read or is too
    large.
    """

    name: str
    read: Callable[[], bytes] = field(repr=False)


@dataclass(slots=True)
class Pictures:
    """The pictures of a folder. ``skipped``: the number of other files, hidden or without the suffix of a picture."""

    items: list[Picture]
    skipped: int = 0
    close: Callable[[], None] = lambda: None


def is_picture(name: str) -> bool:
    """Returns whether a path has the suffix of a picture and no hidden part."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.rpartition(".")[2].lower() in _PICTURES


def safe_name(name: str) -> str:
    """Returns the name without control characters and cut to 200 characters. Different names stay different."""
    name = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", name)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:150]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}{name[-20:]}".replace("/", "~")


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Returns a sort key with numbers by their value: page 2 is before page 10."""
    parts = _DIGITS.split(name)
    return [(1, int(part[:18]), part) if part.isdecimal() else (0, 0, part.casefold()) for part in parts]


def in_natural_order(pictures: Sequence[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: (natural_key(picture.name), picture.name))


def find_folder(context: JobContext, name: str) -> Path:
    """Returns the path of a folder of the settings. Raises WorkError not_found with the names of all folders."""
    known = context.resources.settings.folder_paths
    if name not in known:
        hint = f"use {', '.join(sorted(known))}" if known else "the setting folders names no folder"
        raise WorkError("not_found", f"folder: {name[:40]!r} is unknown; {hint}")
    return known[name]


async def find_uploads(context: JobContext, ids: Sequence[str]) -> list[Attachment]:
    """Returns the user's uploads with these ids, and restarts their lifetime ``upload_ttl``. Raises WorkError."""
    uploads = context.resources.uploads
    await uploads.keep(context.user, ids)
    return await uploads.find(context.user, ids)


async def upload_pictures(context: JobContext, ids: Sequence[str]) -> Pictures:
    """Returns uploaded pictures. Raises WorkError not_found, or unsupported_format for an upload that is
    not a picture.
    """
    most = context.resources.batch.batch_pictures
    ids = list(dict.fromkeys(ids))
    if len(ids) > most:
        raise WorkError("too_large", f"uploads: at most {most:,} are accepted (batch_pictures); send a zip")
    attachments = await find_uploads(context, ids)
    if others := [each.name for each in attachments if not is_picture(each.name)]:
        raise WorkError("unsupported_format", f"uploads: {others[0]} is not a picture")
    most, uploads = context.resources.images.max_slice_bytes, context.resources.uploads
    named = zip(_unique_names(attachments), attachments, strict=True)
    return Pictures([Picture(name, partial(_read_upload, uploads, each, most)) for name, each in named])


def _unique_names(attachments: Sequence[Attachment]) -> list[str]:
    """Returns a file name for each upload, made from the user's name for it: without folders, with the suffix of a
    picture, and unique regardless of case.
    """
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for each in attachments:
        name = safe_name(_FOLDERS.sub("", each.called)).strip(" .") or each.name
        name = name if is_picture(name) else name + each.suffix
        stem, _, suffix = name.rpartition(".")
        stem, unique = stem[: _LONGEST_NAME - 20], name
        while unique.casefold() in names:
            counts[name.casefold()] += 1
            unique = f"{stem}-{counts[name.casefold()] + 1}.{suffix}"
        names[unique.casefold()] = unique
    return list(names.values())


def _read_upload(uploads: Uploads, attachment: Attachment, most: int) -> bytes:
    if isinstance(uploads.place, Path):
        return read_file(uploads.place / attachment.name, most)
    if attachment.size > most:
        raise WorkError("too_large", f"the file has more than {most:,} bytes (max_slice_bytes)")
    try:
        return uploads.place.get(attachment.name)[0]
    except OSError as error:
        raise WorkError("not_found", f"the file cannot be read: {error.strerror}") from None


async def local_path(context: JobContext, attachment: Attachment) -> Path:
    """Returns the path of an upload on this machine. From a bucket it is copied. Raises WorkError not_found."""
    place = context.resources.uploads.place
    if isinstance(place, Path):
        return place / attachment.name
    path = context.folder() / attachment.name
    try:
        with path.open("wb") as file:
            for start in range(0, attachment.size, _CHUNK_BYTES):
                end = min(start + _CHUNK_BYTES, attachment.size)
                await asyncio.to_thread(lambda: file.write(place.piece(attachment.name, start, end)))  # noqa: B023
    except OSError as error:
        raise WorkError("not_found", f"the upload cannot be read: {error.strerror}", temporary=True) from None
    return path


def find_file(context: JobContext, folder: str, name: str) -> Path:
    """Returns the path of a file in a folder, which must not contain a symbolic link. Raises WorkError not_found."""
    root = find_folder(context, folder).resolve()
    path = root / name
    try:
        if path.resolve(strict=True) == path and path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError):
        pass
    raise WorkError("not_found", f"file: there is no {name[:80]!r} in the folder {folder}")


async def folder_pictures(context: JobContext, name: str, match: str) -> Pictures:
    """Returns the pictures of a folder and its subfolders, sorted by name. Raises WorkError."""
    folder, resources = find_folder(context, name), context.resources
    most, most_bytes = resources.batch.batch_pictures, resources.images.max_slice_bytes
    try:
        return await asyncio.to_thread(_list, folder, match, most, most_bytes)
    except OSError as error:
        raise WorkError("not_found", f"folder {name} cannot be read: {error.strerror}") from None


def _list(folder: Path, match: str, most: int, most_bytes: int) -> Pictures:
    found = Pictures([])
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if not is_picture(name) or not fnmatch.fnmatch(name, match):
            found.skipped += 1
            continue
        found.items.append(Picture(safe_name(name), partial(read_file, path, most_bytes)))
        if len(found.items) > most:
            raise WorkError("too_large", f"the folder has more than {most:,} pictures (batch_pictures); use match")
    return Pictures(in_natural_order(found.items), found.skipped)


def _files(folder: Path) -> Iterator[Path]:
    """Yields the regular files in a folder and its subfolders. Symbolic links are not followed."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)


def open_plain_file(path: Path) -> io.FileIO:
    """Opens a regular file. A pipe or device in its place cannot block the call. Raises WorkError not_found."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise WorkError("not_found", f"the file cannot be read: {why}") from None
    file = io.FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise WorkError("not_found", "the file cannot be read: it is not a regular file")
    return file


def read_file(path: Path, most: int) -> bytes:
    """Reads a file of at most ``most`` bytes. Raises WorkError."""
    with open_plain_file(path) as file:
        return read_bounded(file, most)


def read_bounded(file: IO[bytes] | io.FileIO, most: int) -> bytes:
    """Reads the whole stream. Raises WorkError too_large beyond ``most`` bytes, or not_found when the disk fails."""
    try:
        data = file.read(most + 1)
    except OSError as error:
        raise WorkError("not_found", f"the file cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise WorkError("too_large", f"the file has more than {most:,} bytes (max_slice_bytes)")
    return data
