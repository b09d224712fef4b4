"""The interface of a ResultStore: files with the results of slices and jobs, under random names of 128 bits.

A file is stored completely or not at all. ``sweep`` limits the age and the total size of all files. The URL selects the
store (``file:media``, ``s3://bucket/prefix``). A store can be pickled, and any number of processes and machines may
open it.
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
"""Suffix of a file -> its content type."""
# Browsers save a file of these types, because they cannot show it.
_SAVED = (".zip", ".csv", ".json")

NAME = re.compile(rf"[0-9a-f]{{32}}\.(?:{'|'.join(suffix.removeprefix('.') for suffix in TYPES)})")


class ResultStore(Protocol):
    """Stored files by name. Every method blocks until the store has answered, and may raise OSError."""

    @property
    def url(self) -> str:
        """The URL with which another process opens the same store, independent of its working directory."""

    @property
    def place(self) -> Path | RemoteFiles:
        """Where the files are: a folder of this machine, or the files of an object store."""

    def put(self, data: bytes, suffix: str) -> str:
        """Stores ``data`` and returns its new name. ``suffix`` is one of TYPES. After an error no file is left."""

    def put_file(self, path: Path, suffix: str) -> str:
        """Moves a finished file into the store and returns its new name. After an error the file is where it was.

        Its lifetime starts now, whatever its age. Raises OSError also when ``path`` is not a regular file.
        """

    def read(self, name: str) -> bytes:
        """Returns all bytes of the file. Raises FileNotFoundError for an unknown or invalid name."""

    def delete(self, name: str) -> None:
        """Deletes the file if it exists."""

    def sweep(self, max_age: float, max_bytes: int) -> int:
        """Deletes files older than ``max_age`` seconds, then the oldest beyond ``max_bytes``. Returns how many were
        deleted.
        """

    def check(self) -> None:
        """Raises OSError when a file cannot be written now."""


def new_name(suffix: str) -> str:
    """Returns a new random name. Raises ValueError for a suffix that is not in TYPES."""
    if suffix not in TYPES:
        raise ValueError(f"suffix {suffix!r}: there are {' '.join(TYPES)}")
    return secrets.token_hex(16) + suffix


def headers_of(name: str) -> dict[str, str]:
    """Returns the headers with which a file is served, by this server, by nginx or by an object store."""
    suffix = PurePath(name).suffix
    headers = {"Content-Type": TYPES[suffix], "Cache-Control": "private, max-age=86400, immutable"}
    if suffix in _SAVED:
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers
