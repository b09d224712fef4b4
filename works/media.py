"""The MediaStore: encoded results and uploads, each a whole file or none, under names of 128 random bits.

Files are written under a temporary name and renamed; their lifetime and total size are bounded by ``sweep``. A store
is chosen by URL (``file:media``), is picklable, and may be opened by any number of processes at once.
"""

import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

NAME = re.compile(r"[0-9a-f]{32}\.(jpg|png|webp)")
# A temporary file older than this, in seconds, belongs to a writer that was killed.
_ABANDONED = 30.0


class MediaStore(Protocol):
    """Bytes by name. Every method may raise OSError when the store cannot be reached or is full."""

    def put(self, data: bytes, suffix: str) -> str:
        """Stores ``data`` and gives back its new name, ``suffix`` included; on an error nothing stays behind."""

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError for a name that is not there or never was a name."""

    def delete(self, name: str) -> None:
        """Forgets the file, if it is there."""

    def sweep(self, max_age: float, max_bytes: int) -> int:
        """Deletes what is older than ``max_age`` seconds, then the oldest beyond ``max_bytes``; the files that went."""

    def check(self) -> None:
        """Raises OSError unless a file can be written now."""


@dataclass(frozen=True, slots=True)
class FolderMedia:
    """A MediaStore on a folder of this machine."""

    folder: Path

    @property
    def url(self) -> str:
        """By which another process opens the same store, whatever folder it was started in."""
        return f"file:{self.folder}"

    def put(self, data: bytes, suffix: str) -> str:
        name = secrets.token_hex(16) + suffix
        part = f"{self.folder}/.{name}.part"  # pathlib would take twice as long over it
        try:
            with open(part, "wb") as file:
                file.write(data)
            os.rename(part, f"{self.folder}/{name}")
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
        return name

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


def open_media(url: str) -> FolderMedia:
    """The store of a URL. Raises ValueError for an unknown scheme, OSError for a folder that cannot be made."""
    scheme, _, path = url.partition(":")
    if scheme != "file" or not path:
        raise ValueError(f"media {url!r}: the known kinds are file:FOLDER")
    folder = Path(path.removeprefix("//")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return FolderMedia(folder)
