"""Encodes tasks and their results for decoder children and other machines: a JSON header and a payload of bytes.

It does not use pickle: an attacker may have taken over the child, and unpickling its answer would run the attacker's
code.
"""

import json
from typing import Any

from works.errors import WorkError
from works.imaging.task import Result, Task

_TASK_MEMBERS = ("offset_top", "action", "options", "zoom", "fit", "format", "deliver")
_RESULT_MEMBERS = ("width", "height", "format", "name", "data", "work_ms")


def encode_task(task: Task) -> bytes:
    """Returns the header of a task. The payload is the task's own."""
    return json.dumps({name: getattr(task, name) for name in _TASK_MEMBERS}).encode()


def decode_task(members: dict[str, Any], payload: bytes) -> Task:
    """Returns the task with these header members. It has no session and no id: the worker does not need them."""
    return Task(session="", id="", payload=payload, **members)


def encode_outcome(end: Result | WorkError) -> tuple[bytes, bytes]:
    """Returns the header and the payload of a result or an error."""
    if isinstance(end, WorkError):
        return json.dumps({"error": end.as_dict()}).encode(), b""
    return json.dumps({"result": {name: getattr(end, name) for name in _RESULT_MEMBERS}}).encode(), end.payload


def decode_outcome(header: bytes, payload: bytes) -> Result | WorkError:
    """Returns the result or error. Raises ValueError, TypeError or KeyError when the bytes are not a valid answer."""
    members = json.loads(header)
    return WorkError(**members["error"]) if "error" in members else Result(**members["result"], payload=payload)
