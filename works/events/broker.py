"""A Broker stores streams of events. Everything that a client must not lose is an event on a stream, with an offset.

Every implementation guarantees:

- Offsets of a stream start at 1 and grow by one. An append with a known ``id`` returns the first event with that id.
- A stream has an epoch. A reader with a position of another epoch, or of dropped events, is informed: ``recovers``
  returns
False, and ``subscribe`` raises PositionLost.
- With ``durable``, append returns when the event would survive a kill -9 and a power cut.
- A stream whose first event is not durable is volatile. It is complete after a graceful restart and gone after a crash.
Then it starts again with a new epoch.
- Writes that cannot reach the disk raise OSError.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """``data`` is a JSON object as text. It is stored and sent without changes."""

    offset: int
    data: str


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a stream: its epoch and the offset of its last event, 0 when it has none."""

    epoch: str
    offset: int


class PositionLost(Exception):
    """Events after the requested position are no longer retained."""


class Fenced(Exception):
    """The event was not appended, because the stream has an event that forbids it."""


class Broker(Protocol):
    """Streams of events. Every method raises OSError while events cannot be read or written."""

    async def position(self, stream: str) -> Position:
        """Returns the position of the stream. A stream that does not exist starts with a new epoch."""

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        """Appends an event and returns its offset, or that of the first event with the same ``id``.

        An id is known as long as its event is retained. On a volatile stream, ``durable`` waits until the event is
        written, but a crash still removes the whole stream.

        Raises:
            Fenced: the stream has an event with an id in ``unless``. Nothing was appended; the check is atomic.
            OSError: a durable event cannot be written.
            ValueError: ``id`` or ``unless`` was given for a volatile stream.
        """

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        """Returns whether every event after the offset ``after`` of this epoch can still be read."""

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        """Returns up to ``limit`` events after the offset ``after``, oldest first."""

    def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """Yields the events after the offset ``after`` and then new ones, in lists without a gap or a repetition. It
        never ends.

        Raises PositionLost when the reader is further behind than events are retained.
        """

    async def expire(self, stream: str, seconds: float | None) -> None:
        """Deletes the stream and its marks after this time, in seconds. None cancels the expiry."""
