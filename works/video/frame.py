"""A Frame: one encoded picture of a source, the same object for all who watch it."""

import base64
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any


@dataclass(frozen=True, eq=False)
class Frame:
    """``pts`` in seconds, None for a placeholder; ``captured_at`` in milliseconds since 1970; sizes in pixels.

    ``seq`` counts the frames of the source as they are captured. ``data`` is what an action has found.
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
        """Its members as JSON, without the braces."""
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
