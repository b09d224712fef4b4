"""A task and its end as bytes, for the way to a decoder child or to another machine: a JSON header, and a payload.

Never pickle: a child has read what strangers sent, and what it answers must not be able to do anything.
"""

import json
from typing import Any

from works.errors import WorkError
from works.imaging.task import Result, Task

_TASK_MEMBERS = ("offset_top", "action", "options", "zoom", "fit", "format", "deliver")
_RESULT_MEMBERS = ("width", "height", "format", "name", "data", "work_ms")


def encode_task(task: Task) -> bytes:
    """The header; the payload is the task's own."""
    return json.dumps({name: getattr(task, name) for name in _TASK_MEMBERS}).encode()


def decode_task(members: dict[str, Any], payload: bytes) -> Task:
    """Of a header's members: a task without session and id, which the worker need not know."""
    return Task(session="", id="", payload=payload, **members)


def encode_outcome(end: Result | WorkError) -> tuple[bytes, bytes]:
    """Header and payload."""
    if isinstance(end, WorkError):
        return json.dumps({"error": end.as_dict()}).encode(), b""
    return json.dumps({"result": {name: getattr(end, name) for name in _RESULT_MEMBERS}}).encode(), end.payload


def decode_outcome(header: bytes, payload: bytes) -> Result | WorkError:
    """Raises ValueError, TypeError or KeyError for what is no answer."""
    members = json.loads(header)
    return WorkError(**members["error"]) if "error" in members else Result(**members["result"], payload=payload)
