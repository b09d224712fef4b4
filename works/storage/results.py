"""The ResultStore: what was made for users, each a whole file or none, under names of 128 random bits.

Their lifetime and total size are bounded by ``sweep``. A store is chosen by URL (``file:media``, ``s3://bucket/prefix``),
is picklable, and may be opened by any number of processes and machines at once.
"""

import re
import secrets
from pathlib import Path, PurePath
from typing import Protocol

from works.storage.address import RemoteFiles

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


class ResultStore(Protocol):
    """Bytes by name. Every method waits for the store, and may raise OSError: it cannot be reached, denies, is full."""

    @property
    def url(self) -> str:
        """By which another process opens the same store, whatever folder it was started in."""

    @property
    def place(self) -> Path | RemoteFiles:
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
