"""A mark is the position up to which a reader has read a stream. Unread events are counted from it.

A reader has any name: that of a user, or of a list of streams. A mark is an offset of the stream, and is deleted with
the stream.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Mark:
    """The offset of a mark, and the offset of the last event of its stream (``head``)."""

    offset: int
    head: int

    @property
    def unread(self) -> int:
        """The number of events that the reader has not read."""
        return max(self.head - self.offset, 0)


class Marks(Protocol):
    """Every method raises OSError while marks cannot be read or written."""

    async def set(self, stream: str, reader: str, offset: int) -> Mark:
        """Sets the reader's mark to this offset. An existing mark only moves forward.

        A mark is never beyond the last event of the stream. If an event that was appended after the return of this
        method survives a crash, the mark survives too.
        """

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        """Moves the mark like ``set``, but only if the reader has a mark on the stream. Returns whether
        there is one.
        """

    async def remove(self, stream: str, reader: str) -> None:
        """Removes the reader's mark, so that unread events of the stream are no longer counted."""

    async def of_reader(self, reader: str) -> dict[str, Mark]:
        """Returns all marks of the reader, by stream."""
