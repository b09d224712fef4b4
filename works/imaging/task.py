"""A Task is one slice and what to do with it; a Result is what it ended in. Both are frozen and picklable."""

from dataclasses import dataclass, field
from typing import Any, Literal

Format = Literal["auto", "jpeg", "png", "webp"]
Deliver = Literal["store", "inline", "data"]


@dataclass(frozen=True, slots=True)
class Task:
    """One slice to work.

    ``payload`` is the encoded picture. ``offset_top`` and ``height`` place it in its picture ``image``, in source
    pixels (height 0: not known before decoding). The size of the result is ``fit`` (a box it must fit into, never
    enlarged) or else ``zoom``. ``deliver`` says where the result goes: into the media store, back inline, or nowhere
    (``data``: only the action's data is wanted). ``background`` work is taken when nobody else's waits; a session's
    tasks are all of one kind.
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
    """What a task ended in: sizes in pixels, times in milliseconds.

    ``name`` is the stored file (deliver ``store``), ``payload`` the encoded picture (``inline``), ``data`` what the
    action found.
    """

    width: int
    height: int
    format: Literal["jpeg", "png", "webp"]
    name: str = ""
    payload: bytes = field(default=b"", repr=False)
    data: dict[str, Any] | None = None
    work_ms: float = 0.0
    queued_ms: float = 0.0
