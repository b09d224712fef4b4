"""The interface of an UploadStore: uploaded files, each with a record of its owner and of whether a message refers to
it.

Any number of processes may share a store, and a restart changes nothing. File names never contain words of a user. The
user's name for a file is in its record.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, Protocol

from works.storage.address import RemoteFiles
from works.storage.filetype import FILE_TYPES

ID = re.compile(r"[0-9a-f]{32}")
ENTRY = re.compile(r"([0-9a-f]{32})(?:-small)?\.([a-z0-9]+)")
_SMALL = "-small.webp"
# Seconds after which files without a record, and parts that do not grow, are deleted. Their writer must have been
# killed.
ABANDONED = 3600.0


@dataclass(frozen=True, slots=True)
class Attachment:
    """An upload as messages refer to it. ``width`` and ``height`` are those of a picture in pixels, after Exif
    orientation.

    ``called`` is the owner's name for the file. It is not shown to other users; jobs of the owner use it.
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
        """Returns the members for clients. Without ``base_url`` the URLs are paths, which work at every address of the
        server.
        """
        kind = FILE_TYPES[self.suffix]
        members: dict[str, Any] = {"id": self.id, "url": f"{base_url}/upload/{self.name}", "type": kind.type}
        members |= {"kind": kind.group, "size": self.size}
        if self.width and self.height:
            members |= {"width": self.width, "height": self.height}
        if self.has_thumbnail:
            members["thumbnail"] = f"{base_url}/upload/{self.thumbnail}"
        return members


@dataclass(frozen=True, slots=True)
class Usage:
    """The size of an upload in bytes, and the user whose quota it counts for."""

    owner: str
    bytes: int


def headers_of(name: str) -> dict[str, str]:
    """Returns the headers with which an upload is served."""
    return {
        "Content-Type": FILE_TYPES[PurePath(name).suffix].type,
        "Content-Disposition": f'inline; filename="{name}"',
        "Cache-Control": "private, max-age=86400, immutable",
    }


def record_of(owner: str, attachment: Attachment) -> bytes:
    attached = asdict(attachment)
    # In a member of its own: servers of earlier versions refuse unknown members in ``attachment``.
    return json.dumps({"owner": owner, "called": attached.pop("called"), "attachment": attached}).encode()


def parse_record(data: bytes) -> tuple[str, Attachment]:
    """Returns the owner and the attachment. Raises ValueError when the data are not a record."""
    record = json.loads(data)
    try:
        return str(record["owner"]), Attachment(**record["attachment"], called=str(record.get("called", "")))
    except (TypeError, KeyError) as error:
        raise ValueError(f"not a record: {error}") from None


class UploadStore(Protocol):
    """Stored uploads. Any number of processes may use a store. All methods block until the store has
    answered, and may raise OSError.
    """

    @property
    def place(self) -> Path | RemoteFiles:
        """Where the files are: a folder of this machine, or the files of an object store."""

    def part(self, id: str) -> Path:
        """Returns the path of the file that collects the bytes of an upload."""

    def add(self, owner: str, attachment: Attachment, thumbnail: bytes) -> None:
        """Turns the part into an upload, which then survives a power cut. After an error no files are left."""

    def read(self, id: str) -> tuple[str, Attachment] | None:
        """Returns owner and attachment. Returns None for an id that is unknown or invalid, and for a damaged record."""

    def keep(self, ids: Sequence[str]) -> None:
        """Restarts the lifetime of these uploads. Raises FileNotFoundError for a missing one; its ``filename`` starts
        with the id.
        """

    def sweep(self, grace: float, ttl: float, known: Mapping[str, Usage]) -> dict[str, Usage]:
        """Deletes drafts older than ``grace`` seconds, kept uploads older than ``ttl`` seconds, and files of killed
        writers.

        Returns all uploads that are left, by id. ``known``: the uploads of the last sweep, whose records are not read
        again.
        """

    def check(self) -> None:
        """Raises OSError when an upload cannot be stored now."""
