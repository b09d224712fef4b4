"""Marks say how far a reader has read a stream, so that what is unread can be counted.

A reader is any name: a user, or a list of which the stream is a member. A mark stands on an offset of the stream, and
goes with the stream when that expires.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mark:
    """The offset up to which a reader has read a stream, and the offset of the stream's last event (``head``)."""

    offset: int
    head: int

    @property
    def unread(self) -> int:
        """How many events the reader has not read."""
        return max(self.head - self.offset, 0)


class Marks(Protocol):
    """Every method raises OSError while marks cannot be read or written."""

    async def set(self, stream: str, reader: str, offset: int) -> Mark:
        """Sets the reader's mark at that offset. A mark that exists only moves forward.

        Never beyond the stream's last event. An event appended after this returned never survives a crash without
        the mark.
        """

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        """As ``set``, but only if the reader has a mark on the stream; returns whether they have one."""

    async def remove(self, stream: str, reader: str) -> None:
        """Removes the reader's mark: what is unread on the stream is no longer counted for them."""

    async def of_reader(self, reader: str) -> dict[str, Mark]:
        """All marks of the reader, by stream."""
