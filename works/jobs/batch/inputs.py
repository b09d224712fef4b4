"""Where a job's pictures and films come from: folders that the settings name, and what its user has uploaded.

Nobody reads the server's disk at will: a folder is known by its name only, and nothing in it is reached through a link.
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
from works.storage.uploads import Uploads
from works.storage.uploads_store import Attachment

# By these names files are taken for pictures; whether they are any is seen when they are worked.
_PICTURES = frozenset(("jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jp2"))
_DIGITS = re.compile(r"(\d+)")
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls, marks that turn the direction of writing, and what is no text."""

_LONGEST_NAME = 200
# What of a name leads to a file, as any system writes it.
_FOLDERS = re.compile(r"^.*[/\\]|^[A-Za-z]:", re.DOTALL)
# Bytes that are copied at once.
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Picture:
    """One of many. ``read`` waits for the disk; it raises WorkError for what cannot be had, or is too large."""

    name: str
    read: Callable[[], bytes] = field(repr=False)


@dataclass(slots=True)
class Pictures:
    """``passed_over``: how many files were there besides, that by their names are none, or are hidden."""

    items: list[Picture]
    passed_over: int = 0
    close: Callable[[], None] = lambda: None


def is_picture(name: str) -> bool:
    """Whether a path, said with slashes, has the name of a picture, and nothing about it is hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return not hidden and name.rpartition(".")[2].lower() in _PICTURES


def safe(name: str) -> str:
    """The name as it is told and written: without controls, and with at most 200 characters, still its own."""
    name = UNSAFE.sub("\N{REPLACEMENT CHARACTER}", name)
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:150]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}{name[-20:]}".replace("/", "~")


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by as people do: page 2 stands before page 10."""
    parts = _DIGITS.split(name)
    return [(1, int(part[:18]), part) if part.isdecimal() else (0, 0, part.casefold()) for part in parts]


def in_natural_order(pictures: Sequence[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: (natural(picture.name), picture.name))


def folder_named(context: JobContext, name: str) -> Path:
    """Raises WorkError not_found, naming those that there are."""
    known = context.resources.settings.folder_paths
    if name not in known:
        there = ", ".join(sorted(known)) or "none (folders)"
        raise WorkError("not_found", f"folder: there is no {name[:40]!r}; there are {there}")
    return known[name]


async def held(context: JobContext, ids: Sequence[str]) -> list[Attachment]:
    """The user's uploads of these ids; they stay as long as those that a message refers to. Raises WorkError."""
    uploads = context.resources.uploads
    await uploads.keep(context.user, ids)
    return await uploads.find(context.user, ids)


async def uploaded_pictures(context: JobContext, ids: Sequence[str]) -> Pictures:
    """Raises WorkError not_found, or unsupported_format for an upload that is no picture."""
    most = context.resources.batch.batch_pictures
    ids = list(dict.fromkeys(ids))
    if len(ids) > most:
        raise WorkError("too_large", f"uploads: at most {most:,} are taken (batch_pictures)")
    attachments = await held(context, ids)
    if other := [each.name for each in attachments if not is_picture(each.name)]:
        raise WorkError("unsupported_format", f"uploads: {other[0]} is no picture")
    most, uploads = context.resources.images.max_slice_bytes, context.resources.uploads
    named = zip(_called(attachments), attachments, strict=True)
    return Pictures([Picture(name, partial(_read_upload, uploads, each, most)) for name, each in named])


def _called(attachments: Sequence[Attachment]) -> list[str]:
    """What their user called them, as pictures and without folders, no two the same where case is not told."""
    counts: Counter[str] = Counter()
    names: dict[str, str] = {}
    for each in attachments:
        name = safe(_FOLDERS.sub("", each.called)).strip(" .") or each.name
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
        return read(uploads.place / attachment.name, most)
    if attachment.size > most:
        raise WorkError("too_large", f"it has more than {most:,} bytes (max_slice_bytes)")
    try:
        return uploads.place.get(attachment.name)[0]
    except OSError as error:
        raise WorkError("not_found", f"it cannot be read: {error.strerror}") from None


async def fetched(context: JobContext, attachment: Attachment) -> Path:
    """Where an upload is on this machine's disk; from a bucket it is copied there. Raises WorkError not_found."""
    place = context.resources.uploads.place
    if isinstance(place, Path):
        return place / attachment.name
    path = context.folder() / attachment.name
    try:
        with path.open("wb") as file:
            for start in range(0, attachment.size, _PIECE):
                end = min(start + _PIECE, attachment.size)
                await asyncio.to_thread(lambda: file.write(place.piece(attachment.name, start, end)))  # noqa: B023
    except OSError as error:
        raise WorkError("not_found", f"the upload cannot be read: {error.strerror}", temporary=True) from None
    return path


def file_in(context: JobContext, folder: str, name: str) -> Path:
    """A file of a folder, by the path that leads there without a link. Raises WorkError not_found."""
    root = folder_named(context, folder).resolve()
    path = root / name
    try:
        if path.resolve(strict=True) == path and path.is_relative_to(root) and path.is_file():
            return path
    except (OSError, ValueError):
        pass
    raise WorkError("not_found", f"file: there is no {name[:80]!r} in the folder {folder}")


async def pictures_in(context: JobContext, name: str, match: str) -> Pictures:
    """The pictures of a folder and of those in it, in the order of their names. Raises WorkError."""
    folder, resources = folder_named(context, name), context.resources
    most, most_bytes = resources.batch.batch_pictures, resources.images.max_slice_bytes
    try:
        return await asyncio.to_thread(_list, folder, match, most, most_bytes)
    except OSError as error:
        raise WorkError("not_found", f"folder {name}: it cannot be read: {error.strerror}") from None


def _list(folder: Path, match: str, most: int, most_bytes: int) -> Pictures:
    found = Pictures([])
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if not is_picture(name) or not fnmatch.fnmatch(name, match):
            found.passed_over += 1
            continue
        found.items.append(Picture(safe(name), partial(read, path, most_bytes)))
        if len(found.items) > most:
            raise WorkError("too_large", f"the folder has more than {most:,} pictures (batch_pictures); use match")
    return Pictures(in_natural_order(found.items), found.passed_over)


def _files(folder: Path) -> Iterator[Path]:
    """The plain files in it and in its folders; links are not followed."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                    waiting.append(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)


def opened(path: Path) -> io.FileIO:
    """A plain file, opened; whatever else stands there is not waited for. Raises WorkError not_found."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise WorkError("not_found", f"it cannot be read: {why}") from None
    file = io.FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise WorkError("not_found", "it cannot be read: it is no plain file")
    return file


def read(path: Path, most: int) -> bytes:
    """A file of at most so many bytes. Raises WorkError."""
    with opened(path) as file:
        return within(file, most)


def within(file: IO[bytes] | io.FileIO, most: int) -> bytes:
    """All of it. Raises WorkError too_large, or not_found for a disk that fails."""
    try:
        data = file.read(most + 1)
    except OSError as error:
        raise WorkError("not_found", f"it cannot be read: {error.strerror}") from None
    if len(data) > most:
        raise WorkError("too_large", f"it has more than {most:,} bytes (max_slice_bytes)")
    return data
