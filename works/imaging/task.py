"""A Task is one slice and what to do with it. A Result is how it ended. Both are immutable and can be pickled."""

from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["auto", "jpeg", "png", "webp"]
Deliver = Literal["store", "inline", "data"]


@dataclass(frozen=True, slots=True)
class Task:
    """One slice to process.

    ``payload`` is the encoded picture. ``offset_top`` and ``height`` are its position in the picture ``image``, in
    source pixels; height 0 means unknown. The size of the result is ``fit``, a box that it must fit into without being
    enlarged, or else ``zoom``. ``deliver`` says where the result goes: "store" into the result store, "inline" back to
    the caller, "data" nowhere, because only the findings are needed. ``background`` tasks run when no other task is
    waiting. All tasks of a session have the same ``background``.
    """

    session: str
    id: str
    payload: bytes | memoryview = field(repr=False)
    offset_top: float = 0
    height: float = 0
    image: str = ""
    action: str = "resize"
    options: dict[str, Any] = field(default_factory=dict)
    zoom: float = 1.0
    fit: tuple[int, int] | None = None
    format: Format = "auto"
    deliver: Deliver = "store"
    background: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a task. Sizes are in pixels, times in milliseconds.

    ``name`` is the stored file (deliver ``store``). ``payload`` is the encoded picture (``inline``). ``data`` has the
    findings.
    """

    width: int
    height: int
    format: Literal["jpeg", "png", "webp"]
    name: str = ""
    payload: bytes = field(default=b"", repr=False)
    data: dict[str, Any] | None = None
    work_ms: float = 0.0
    queued_ms: float = 0.0
