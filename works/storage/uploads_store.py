"""The Shelf: uploaded files, each with a record of whose it is and whether something refers to it.

On a folder ``ID.draft`` is the record of an upload that nobody has referred to, ``ID.kept`` of one that somebody has;
their age is that of the file. It is written last, when all else is on the disk; files without one are debris. So any
number of processes may share the folder, and a restart changes nothing. No name of a file holds a word of a
user's; what they called it stands in the record.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Protocol

from works.storage.address import StoreOptions, address_of, driver_for
from works.storage.filetype import FILE_TYPES
from works.storage.results import folder_of

if TYPE_CHECKING:
    from works.storage.bucket import Bucket

ID = re.compile(r"[0-9a-f]{32}")
ENTRY = re.compile(r"([0-9a-f]{32})(?:-small)?\.([a-z0-9]+)")
_SMALL = "-small.webp"
_DRAFT, _KEPT = "draft", "kept"
# Seconds after which what has no record, or was not written on, belongs to a writer that was killed.
ABANDONED = 3600.0


@dataclass(frozen=True, slots=True)
class Attachment:
    """An upload as messages refer to it; ``width`` and ``height`` in pixels, as seen, of pictures.

    ``called`` is what its owner called it, as it was sent: told to nobody, used by the owner's jobs.
    """

    id: str
    suffix: str
    size: int
    width: int | None = None
    height: int | None = None
    has_thumbnail: bool = False
    called: str = ""

    @property
    def name(self) -> str:
        return self.id + self.suffix

    @property
    def thumbnail(self) -> str:
        return self.id + _SMALL

    def as_dict(self, base_url: str = "") -> dict[str, Any]:
        """As clients are told: without a base the addresses are paths, which hold by whatever name we are reached."""
        kind = FILE_TYPES[self.suffix]
        told: dict[str, Any] = {"id": self.id, "url": f"{base_url}/upload/{self.name}", "type": kind.type}
        told |= {"kind": kind.group, "size": self.size}
        if self.width and self.height:
            told |= {"width": self.width, "height": self.height}
        if self.has_thumbnail:
            told["thumbnail"] = f"{base_url}/upload/{self.thumbnail}"
        return told


@dataclass(frozen=True, slots=True)
class Usage:
    """What an upload takes up: bytes in all, and of whose share."""

    owner: str
    bytes: int


def headers_of(name: str) -> dict[str, str]:
    """With which an upload is served, whoever does it."""
    return {
        "Content-Type": FILE_TYPES[PurePath(name).suffix].type,
        "Content-Disposition": f'inline; filename="{name}"',
        "Cache-Control": "private, max-age=86400, immutable",
    }


def record_of(owner: str, attachment: Attachment) -> bytes:
    attached = asdict(attachment)
    # Beside the rest: servers of an earlier version read only what they know of the others.
    return json.dumps({"owner": owner, "called": attached.pop("called"), "attachment": attached}).encode()


def parse_record(data: bytes) -> tuple[str, Attachment]:
    """Raises ValueError for what is none."""
    record = json.loads(data)
    try:
        return str(record["owner"]), Attachment(**record["attachment"], called=str(record.get("called", "")))
    except (TypeError, KeyError) as error:
        raise ValueError(f"no record: {error}") from None


class UploadStore(Protocol):
    """Any number of processes may use one at once. All its methods wait for it, and may raise OSError."""

    @property
    def place(self) -> "Path | Bucket":
        """Where the files are, by their names, to be served from."""

    def part(self, id: str) -> Path:
        """Where the bytes of an upload are collected."""

    def add(self, owner: str, attachment: Attachment, thumbnail: bytes) -> None:
        """Makes an upload of the part: when this returns, it would survive a power cut. On an error nothing stays."""

    def read(self, id: str) -> tuple[str, Attachment] | None:
        """Owner and attachment; None for what is not there, or no record, or never was an id."""

    def keep(self, ids: Sequence[str]) -> None:
        """Their time begins now. Raises FileNotFoundError, its filename beginning with the id, for one that is gone."""

    def sweep(self, grace: float, ttl: float, known: Mapping[str, Usage]) -> dict[str, Usage]:
        """Deletes drafts older than ``grace``, kept ones older than ``ttl`` (seconds), debris; what is there then.

        ``known`` saves reading the records of those that were there before.
        """

    def check(self) -> None:
        """Raises OSError unless an upload could be stored now."""


@dataclass(frozen=True, slots=True)
class FolderUploads:
    """A Shelf on a folder of this machine."""

    folder: Path

    @property
    def place(self) -> Path:
        return self.folder

    def part(self, id: str) -> Path:
        return self.folder / f".{id}.part"

    def add(self, owner: str, attachment: Attachment, thumbnail: bytes) -> None:
        id, folder = attachment.id, self.folder
        draft = folder / f"{id}.{_DRAFT}"
        try:
            if attachment.has_thumbnail:
                _write(folder / attachment.thumbnail, thumbnail)
            _sync(self.part(id))
            self.part(id).rename(folder / attachment.name)
            _write(folder / f".{id}.record.part", record_of(owner, attachment))
            (folder / f".{id}.record.part").rename(draft)
            _sync(folder)
        except OSError:
            for path in (draft, folder / f".{id}.record.part", folder / attachment.name, folder / attachment.thumbnail):
                path.unlink(missing_ok=True)
            raise

    def read(self, id: str) -> tuple[str, Attachment] | None:
        if not ID.fullmatch(id):
            return None
        # In this order: one that becomes kept in between is found all the same.
        for state in (_DRAFT, _KEPT):
            try:
                return parse_record((self.folder / f"{id}.{state}").read_bytes())
            except (FileNotFoundError, ValueError):
                continue
        return None

    def keep(self, ids: Sequence[str]) -> None:
        for id in ids:
            draft, kept = self.folder / f"{id}.{_DRAFT}", self.folder / f"{id}.{_KEPT}"
            try:
                os.utime(draft)
                draft.rename(kept)
            except FileNotFoundError:
                os.utime(kept)
        _sync(self.folder)

    def sweep(self, grace: float, ttl: float, known: Mapping[str, Usage]) -> dict[str, Usage]:
        now, held = time.time(), {}
        for id, files in self._scan(now).items():
            record = files.pop(_DRAFT, None) or files.pop(_KEPT, None)
            if record is None:
                if all(now - stat.st_mtime > ABANDONED for _, stat in files.values()):
                    _unlink(files)
                continue
            path, stat = record
            if now - stat.st_mtime > (grace if path.suffix == f".{_DRAFT}" else ttl):
                try:
                    path.unlink()  # not there any more: it has been kept meanwhile, and so are its files
                    _unlink(files)
                    continue
                except FileNotFoundError:
                    pass
            owner = known[id].owner if id in known else self._owner(id)
            held[id] = Usage(owner, sum(stat.st_size for _, stat in files.values()))
        return held

    def _scan(self, now: float) -> dict[str, dict[str, tuple[Path, os.stat_result]]]:
        """By id, and there by what follows the id. Parts that nobody writes any more are deleted."""
        found: dict[str, dict[str, tuple[Path, os.stat_result]]] = {}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                match = ENTRY.fullmatch(entry.name)
                if match:
                    key = match[2] if match[2] in (_DRAFT, _KEPT) else entry.name
                    found.setdefault(match[1], {})[key] = Path(entry.path), stat
                elif entry.name.endswith(".part") and now - stat.st_mtime > ABANDONED:
                    Path(entry.path).unlink(missing_ok=True)
        return found

    def _owner(self, id: str) -> str:
        record = self.read(id)
        return record[0] if record else ""

    def check(self) -> None:
        probe = self.part(secrets.token_hex(16))
        try:
            probe.write_bytes(b"?")
        finally:
            probe.unlink(missing_ok=True)


def _unlink(files: Mapping[str, tuple[Path, os.stat_result]]) -> None:
    for path, _ in files.values():
        path.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_upload_store(url: str, options: StoreOptions, spool: Path) -> UploadStore:
    """``spool``: the folder for what is on its way to an object store.

    Raises ValueError for a URL of an unknown kind, OSError for a folder that cannot be made.
    """
    if address_of(url):
        with driver_for(url):
            from works.storage.uploads_bucket import BucketUploads
        spool.mkdir(parents=True, exist_ok=True)
        return BucketUploads(url, options, spool.resolve())
    return FolderUploads(folder_of(url, "uploads"))
