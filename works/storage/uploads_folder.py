"""Uploads in a folder of this machine.

`ID.draft` is the record of an upload that no message refers to, `ID.kept` that of one with a reference. The time of the
file is the start of its lifetime. The record is written last, after all other files are on the disk. Files without a
record belong to a writer that was killed.
"""

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from works.storage.uploads_store import ABANDONED, ENTRY, ID, Attachment, Usage, parse_record, record_of

_DRAFT, _KEPT = "draft", "kept"


@dataclass(frozen=True, slots=True)
class FolderUploads:
    """An UploadStore in a folder."""

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
        # In this order, an upload that becomes kept between the two steps is still found.
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
                    path.unlink()  # the draft is gone, because another request has kept the upload and its files
                    _unlink(files)
                    continue
                except FileNotFoundError:
                    pass
            owner = known[id].owner if id in known else self._owner(id)
            held[id] = Usage(owner, sum(stat.st_size for _, stat in files.values()))
        return held

    def _scan(self, now: float) -> dict[str, dict[str, tuple[Path, os.stat_result]]]:
        """Groups files by id, and within an id by the rest of the name. Deletes parts of uploads that are no longer
        written.
        """
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
