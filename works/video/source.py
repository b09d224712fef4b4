"""A Source is a camera, a file or a folder that clients can watch: its name, its place, and which users may watch it.

All sources are read from one setting, so a client cannot make the server open another place. A place may contain a
password, therefore no error message and no ``repr`` contains a place.
"""

import json
import os
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Kind = Literal["live", "file"]

LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp", "tcp", "srt")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class _Members(BaseModel):
    """One source in the JSON form of the setting ``sources``."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    url: str = Field(min_length=1)
    kind: Kind | None = None
    scope: str = Field("", pattern=r"^\S*$")
    users: list[str] = ["*"]
    viewers: int | None = Field(None, gt=0)
    transport: Literal["tcp", "udp"] = "tcp"
    picture_seconds: float = Field(1.0, gt=0, le=86400)


@dataclass(frozen=True, slots=True)
class Source:
    """A source that clients can watch.

    ``scope`` is a word that a token must have in addition to ``video``. ``users`` are patterns of user names.
    ``viewers`` is the highest number of watches at the same time; None means the setting ``video_viewers``.
    ``picture_seconds`` is how long each picture of a folder is shown.
    """

    name: str
    url: str = field(repr=False)
    kind: Kind
    scope: str = ""
    users: tuple[str, ...] = ("*",)
    viewers: int | None = None
    transport: str = "tcp"
    picture_seconds: float = 1.0

    def open_to(self, user: str, scopes: frozenset[str]) -> bool:
        may = not self.scope or self.scope in scopes
        return may and any(fnmatchcase(user, pattern) for pattern in self.users)


def parse_sources(text: str) -> dict[str, Source]:
    """Returns the sources by name.

    ``text`` has one of three forms: ``name=place name=place ...``, a JSON object, or the name of a .json file that
    contains such an object. Raises ValueError for any other text; the message does not contain a place.
    """
    text = text.strip()
    if text.endswith(".json") and "=" not in text and not text.startswith("{"):
        try:
            text = Path(text).read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError("sources: the file cannot be read") from None
        if not text.startswith("{"):
            raise ValueError("sources: the file must contain a JSON object")
    given = _json(text) if text.startswith("{") else _words(text)
    return {name: _source(name, value) for name, value in given.items()}


def _json(text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("sources: this is not a valid JSON object") from None
    assert isinstance(given, dict)
    return given


def _words(text: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for number, word in enumerate(text.split(), 1):
        name, equals, place = word.partition("=")
        if not equals or not place:
            raise ValueError(f"sources: word {number} must be name=place; a place with spaces needs the JSON form")
        if name in given:
            raise ValueError(f"sources: the name {name[:64]!r} is used twice")
        given[name] = place
    return given


def _source(name: str, value: Any) -> Source:
    if not _NAME.fullmatch(name):
        raise ValueError("sources: a name must consist of 1 to 64 letters, digits, '.', '_' and '-'")
    try:
        members = _Members.model_validate({"url": value} if isinstance(value, str) else value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"sources: {name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}") from None
    url = members.url.removeprefix("file:") if not members.url.startswith("file://") else members.url[7:]
    kind = _kind(name, url)
    if members.kind and members.kind != kind and not (members.kind == "file" and url.startswith(("http:", "https:"))):
        raise ValueError(f"sources: {name}: kind: this place is {kind}; only an http(s) address can be set to file")
    if "://" not in url:
        url = os.path.abspath(url)  # The capture process that opens the path has another working directory.
    rest = members.model_dump(exclude={"url", "kind", "users"})
    return Source(name, url, members.kind or kind, users=tuple(members.users), **rest)


def _kind(name: str, url: str) -> Kind:
    scheme = _SCHEME.match(url)
    if scheme is None:
        return "live" if url.startswith("/dev/") and not url.startswith("/dev/shm/") else "file"
    if scheme[1].lower() not in LIVE:
        known = ", ".join(LIVE)
        raise ValueError(f"sources: {name}: {scheme[1]} is unknown; use {known}, a device, a file or a folder")
    return "live"
