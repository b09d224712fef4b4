"""The wire format of a slice: the schema of the message, which all endpoints share, and the JSON of the answer."""

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
    """The message for one slice. `/process` builds the same message from its query string."""

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
        """Returns the task of the slice. ``deliver`` says where the result picture is stored or sent.

        Raises WorkError with code unknown_action or bad_options.
        """
        action = actions.find(self.action)
        if self.respond == "data" and not action.gives_data:
            raise WorkError("bad_options", f"respond: {action.name} gives a picture, no data; ask for url or bytes")
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


# The start of a stored event that names a file. Events with this start are already stored, so it must not change.
_FILE_FIRST = '{"type":"result","file":'


def parse_fit(text: str | None) -> tuple[int, int] | None:
    """Returns the width and height of a text such as ``512x384``, or None for None.

    Raises ValueError for any other text.
    """
    if text is None:
        return None
    width, _, height = text.partition("x")
    return int(width), int(height)


@dataclass(frozen=True, slots=True)
class SliceEvent:
    """Encodes the outcome of a slice as the event for its client. The `seq` of the event is its offset, and is added
    later.

    With `wants_bytes`, the event names the stored file in the member `file`, directly after `type`. The server later
    sends the content of the file instead of this name.
    """

    task: Task
    base_url: str
    wants_bytes: bool = False

    def encode(self, outcome: Result | WorkError) -> str:
        members = self._error(outcome) if isinstance(outcome, WorkError) else self._result(outcome)
        return json.dumps(members, separators=(",", ":"))

    def _result(self, result: Result) -> dict[str, object]:
        task = self.task
        event: dict[str, object] = {"type": "result"}  # the order of members must match _FILE_FIRST
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
    """Returns the URL of the stored result ``name``, for clients that reach the server at ``base_url``."""
    return f"{base_url}/media/{name}"


def add_seq(event: str, offset: int) -> str:
    """Returns the message to the client for a stored event. Its ``seq`` is the offset of the event."""
    return f'{{"seq":{offset},{event[1:]}'


def names_file(event: str) -> bool:
    """Returns whether the stored event names a file whose content is sent instead (`SliceEvent.wants_bytes`)."""
    return event.startswith(_FILE_FIRST)
