"""The ResultStore: what was made for users, each a whole file or none, under names of 128 random bits.

Their lifetime and total size are bounded by ``sweep``. A store is chosen by URL (``file:media``, ``s3://bucket/prefix``),
is picklable, and may be opened by any number of processes and machines at once.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Protocol

from works.storage.address import KNOWN, StoreOptions, address_of, driver_for

if TYPE_CHECKING:
    from works.storage.bucket import Bucket

TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".webm": "video/webm",
    ".mp4": "video/mp4",
    ".zip": "application/zip",
    ".csv": "text/csv; charset=utf-8",
    ".json": "application/json",
}
"""By its suffix, what a file is to a browser."""
# What a browser does not show by itself is saved, under its name.
_SAVED = (".zip", ".csv", ".json")

NAME = re.compile(rf"[0-9a-f]{{32}}\.(?:{'|'.join(suffix.removeprefix('.') for suffix in TYPES)})")
# A temporary file older than this, in seconds, belongs to a writer that was killed.
_ABANDONED = 30.0


class ResultStore(Protocol):
    """Bytes by name. Every method waits for the store, and may raise OSError: it cannot be reached, denies, is full."""

    @property
    def url(self) -> str:
        """By which another process opens the same store, whatever folder it was started in."""

    @property
    def place(self) -> "Path | Bucket":
        """Where the files are, by their names, to be served from: a folder of this machine, or a bucket."""

    def put(self, data: bytes, suffix: str) -> str:
        """Stores ``data`` under a new name with ``suffix``, one of TYPES, and gives it back; an error leaves none."""

    def put_file(self, path: Path, suffix: str) -> str:
        """Takes a finished file in, which is then gone from where it was; after an error it is there still.

        Its time begins now, whatever its age. Raises OSError too for what is no plain file.
        """

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError for a name that is not there or never was a name."""

    def delete(self, name: str) -> None:
        """Forgets the file, if it is there."""

    def sweep(self, max_age: float, max_bytes: int) -> int:
        """Deletes what is older than ``max_age`` seconds, then the oldest beyond ``max_bytes``; the files that went."""

    def check(self) -> None:
        """Raises OSError unless a file can be written now."""


def new_name(suffix: str) -> str:
    """Raises ValueError for a suffix under which nothing could be fetched."""
    if suffix not in TYPES:
        raise ValueError(f"suffix {suffix!r}: there are {' '.join(TYPES)}")
    return secrets.token_hex(16) + suffix


def headers_of(name: str) -> dict[str, str]:
    """With which a file is served, whoever does it."""
    suffix = PurePath(name).suffix
    headers = {"Content-Type": TYPES[suffix], "Cache-Control": "private, max-age=86400, immutable"}
    if suffix in _SAVED:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers


@dataclass(frozen=True, slots=True)
class FolderResults:
    """A ResultStore on a folder of this machine: files are written under a temporary name and renamed."""

    folder: Path

    @property
    def url(self) -> str:
        return f"file:{self.folder}"

    @property
    def place(self) -> Path:
        return self.folder

    def put(self, data: bytes, suffix: str) -> str:
        name = new_name(suffix)
        part = f"{self.folder}/.{name}.part"  # pathlib would take twice as long over it
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.rename(part, f"{self.folder}/{name}")
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
        return name

    def put_file(self, path: Path, suffix: str) -> str:
        name = new_name(suffix)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        # As readable as the folder is: a web server in front may be another user than us.
        mode = 0o666 & self.folder.stat().st_mode
        path.chmod(mode)
        os.utime(path)
        try:
            path.rename(self.folder / name)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy(path, name, mode)
        return name

    def _copy(self, path: Path, name: str, mode: int) -> None:
        """From another file system, where a rename does not lead."""
        part = self.folder / f".{name}.part"
        try:
            shutil.copyfile(path, part)
            part.chmod(mode)
            part.rename(self.folder / name)
            path.unlink()
        except OSError:
            part.unlink(missing_ok=True)
            self.delete(name)
            raise

    def path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise FileNotFoundError(name)
        return self.folder / name

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def sweep(self, max_age: float, max_bytes: int) -> int:
        now, gone, kept = time.time(), 0, []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if entry.name.endswith(".part"):
                    if now - stat.st_mtime > _ABANDONED:
                        Path(entry.path).unlink(missing_ok=True)
                elif NAME.fullmatch(entry.name):
                    kept.append((stat.st_mtime, stat.st_size, entry.path))
        total = sum(size for _, size, _ in kept)
        for modified, size, path in sorted(kept):
            if now - modified <= max_age and total <= max_bytes:
                break
            Path(path).unlink(missing_ok=True)
            total -= size
            gone += 1
        return gone

    def check(self) -> None:
        self.delete(self.put(b"?", ".png"))


def open_results(url: str, options: StoreOptions | None = None, *, make: bool = True) -> ResultStore:
    """The store of a URL, its folder made if wished. Raises ValueError for an unknown scheme, OSError if that fails."""
    if address_of(url):
        with driver_for(url):
            from works.storage.results_bucket import BucketResults
        return BucketResults(url, options or StoreOptions())
    return FolderResults(folder_of(url, "media", make=make))


def folder_of(url: str, what: str, *, make: bool = True) -> Path:
    """The folder of a URL, made if it is not there, and wished."""
    scheme, _, path = url.partition(":")
    if scheme != "file" or not path:
        raise ValueError(f"{what} {url!r}: the known kinds are file:FOLDER, {KNOWN}")
    folder = Path(path.removeprefix("//")).resolve()
    if make:
        folder.mkdir(parents=True, exist_ok=True)
    return folder
