"""A Broker keeps streams of events: whatever a client must not lose is an event on a stream, with an offset.

What every implementation promises:

- Offsets grow by one per stream, from 1. An ``id`` makes a repeated append the same event.
- A stream has an epoch. A reader whose position is of another epoch, or whose events are no longer kept, is answered
  (``recovers`` is False, ``subscribe`` raises PositionLost) and never left in silence.
- With ``durable``, append returns when the event would survive a kill -9 and a power cut.
- A stream whose first event is not durable is volatile: it is whole after an orderly restart, and gone after a crash;
  then it begins again with a new epoch.
- What must reach the disk raises OSError when it cannot.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Event:
    """``data`` is a JSON object as text; it is stored and sent as it is."""

    offset: int
    data: str


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream stands: its epoch and the offset of its last event, 0 when it has none."""

    epoch: str
    offset: int


class PositionLost(Exception):
    """Events after the requested position are no longer kept."""


class Fenced(Exception):
    """The event was not appended: the stream has an event that it must not follow."""


class Broker(Protocol):
    """Every method raises OSError while the events cannot be read or written."""

    async def position(self, stream: str) -> Position:
        """Where the stream stands; one that does not exist begins with a new epoch."""

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        """Adds an event and returns its offset; that of the first event when ``id`` was appended before.

        An id is known for as long as its event is kept. On a volatile stream ``durable`` waits until the event is
        written, but the event still goes with its stream in a crash.

        Raises:
            Fenced: the stream has an event with an id in ``unless``; nothing was added. The check and the append are
                one atomic step.
            OSError: a durable event cannot be written.
            ValueError: an ``id`` or ``unless`` on a volatile stream.
        """

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        """Whether every event after the offset ``after`` of that epoch can still be read."""

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        """Up to ``limit`` events after that offset, oldest first."""

    def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """The events after that offset and then those to come, in batches without a gap or a repeat. It never ends.

        Raises PositionLost when the reader has fallen behind what is kept.
        """

    async def expire(self, stream: str, seconds: float | None) -> None:
        """Lets the stream be deleted, with the marks on it, after that time. None: it is kept after all."""
