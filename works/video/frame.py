"""A Frame: one encoded picture of a source. All watches of the source share the same object."""

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, eq=False)
class Frame:
    """One encoded picture of a source. ``width`` and ``height`` are in pixels.

    ``seq`` is the number of the frame, counted over all captured frames of the source. ``pts`` is the time within the
    recording or stream in seconds, None for a placeholder. ``captured_at`` is in milliseconds since 1970. ``data``
    holds the findings of an action.
    """

    source: str
    seq: int
    pts: float | None
    captured_at: int
    width: int
    height: int
    jpeg: bytes = field(repr=False)
    placeholder: bool = False
    data: dict[str, Any] | None = None

    @cached_property
    def members(self) -> str:
        """The members of the ``frame`` message as JSON, without the braces and without the picture."""
        members: dict[str, Any] = {
            "source": self.source,
            "seq": self.seq,
            "pts": self.pts,
            "captured_at": self.captured_at,
            "width": self.width,
            "height": self.height,
        }
        if self.placeholder:
            members["placeholder"] = True
        if self.data is not None:
            members["data"] = self.data
        return json.dumps(members, separators=(",", ":"))[1:-1]

    @cached_property
    def base64(self) -> str:
        return base64.b64encode(self.jpeg).decode()
