"""A slice on the wire: the schema by which every endpoint takes one, and the JSON that it is answered with."""

import json
import re
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from handlers.core.client_message import Message
from works.errors import WorkError
from works.imaging import actions
from works.imaging.task import Deliver, Format, Result, Task


class SliceMessage(Message):
    """One slice; `/process` makes one of its query."""

    type: Literal["slice"]
    id: str = Field(min_length=1, max_length=100)
    offset_top: float
    height: float = Field(0, ge=0)
    image: str = Field("", max_length=100)
    action: str = "resize"
    options: dict[str, Any] = Field(default_factory=dict)
    zoom: float = Field(1.0, gt=0)
    fit: str | None = None
    respond: Literal["url", "data", "bytes"] = "url"
    format: Format = "auto"
    data: str | None = None

    @field_validator("fit")
    @classmethod
    def _box(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", value):
            raise PydanticCustomError("fit", "Input should be like 512x512, a width and a height in pixels")
        return value

    def task(self, session: str, payload: bytes | memoryview, deliver: Deliver = "store") -> Task:
        """The slice's task; ``deliver`` says where its picture goes. Raises WorkError unknown_action or bad_options."""
        action = actions.find(self.action)
        if self.respond == "data" and not action.gives_data:
            raise WorkError("bad_options", f"respond: {action.name} returns a picture and no data; use url or bytes")
        return Task(
            session=session,
            id=self.id,
            payload=payload,
            offset_top=self.offset_top,
            height=self.height,
            image=self.image,
            action=action.name,
            options=actions.check(action.name, self.options),
            zoom=self.zoom,
            fit=parse_fit(self.fit),
            format=self.format,
            deliver="data" if self.respond == "data" else deliver,
        )


# The first members of an event that names its file. Stored events have this form: it must not change.
_FILE_FIRST = '{"type":"result","file":'


def parse_fit(text: str | None) -> tuple[int, int] | None:
    """``512x384`` -> (512, 384). Raises ValueError for other text."""
    if text is None:
        return None
    width, _, height = text.partition("x")
    return int(width), int(height)


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """Writes what a slice ended in as the event that its client is sent; its `seq` is the event's offset, added later.

    With `wants_bytes` the event names the stored file in its first member, `file`; it is sent in the file's place.
    """

    task: Task
    base_url: str
    wants_bytes: bool = False

    def encode(self, outcome: Result | WorkError) -> str:
        members = self._error(outcome) if isinstance(outcome, WorkError) else self._result(outcome)
        return json.dumps(members, separators=(",", ":"))

    def _result(self, result: Result) -> dict[str, object]:
        task = self.task
        event: dict[str, object] = {"type": "result"}  # in the order of _FILE_FIRST
        if self.wants_bytes:
            event["file"] = result.name
        event |= {"id": task.id, "image": task.image, "offset_top": task.offset_top}
        event |= {"width": result.width, "height": result.height, "format": result.format}
        if result.name:
            event["url"] = result_url(self.base_url, result.name)
        if result.data is not None:
            event["data"] = result.data
        event["timing"] = {"queued_ms": round(result.queued_ms, 1), "work_ms": round(result.work_ms, 1)}
        return event

    def _error(self, error: WorkError) -> dict[str, object]:
        return {"type": "error", "id": self.task.id, "image": self.task.image, **error.as_dict()}


def result_url(base_url: str, name: str) -> str:
    """The URL of the stored result ``name``, for clients that reach the server at ``base_url``."""
    return f"{base_url}/media/{name}"


def add_seq(event: str, offset: int) -> str:
    """A stored event as the message that its client is sent: ``seq`` is the event's offset."""
    return f'{{"seq":{offset},{event[1:]}'


def names_file(event: str) -> bool:
    """Whether the stored event names a file that is to be sent in its place (`SliceEvent.wants_bytes`)."""
    return event.startswith(_FILE_FIRST)
