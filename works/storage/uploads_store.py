"""The promise of an UploadStore: uploaded files, each with a record of its owner and of whether something refers to it.

Any number of processes may share a store, and a restart changes nothing. No file has a user's words in its name; what
the user called it stands in the record.
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
    def place(self) -> Path | RemoteFiles:
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
