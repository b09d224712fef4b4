"""The promise of an EventLog: whatever a client must not lose is an event on a stream, with an offset.

Offsets grow by one per stream, from 1. A stream has an epoch; a reader whose position is past what is kept, or of
another epoch, is told so (``recovers`` false, Lost) and never left in silence. ``id`` makes a repeated append the
same event. With ``durable``, append returns when the event would survive a kill -9 and a power cut. A stream whose
first event is not durable is volatile: whole after an orderly restart; after a crash gone, begun with a new epoch.
A reader's mark on a stream says how far they have read; whoever has one is counted what is unread. Who is present in
a room is known while they are, and forgotten when a process that said so dies. A lease has one holder, for as long
as it says. What must reach the disk raises OSError when it cannot.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

# Seconds after which a connection that has not entered again is taken to be gone with its process.
PRESENT = 60.0


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


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a reader has read a stream, and the offset of its last event."""

    offset: int
    head: int

    @property
    def unread(self) -> int:
        return max(self.head - self.offset, 0)


class PositionLost(Exception):
    """Events after the asked position are no longer kept."""


class Fenced(Exception):
    """The event was not appended: one that it must not follow is there."""


class EventLog(Protocol):
    @property
    def syncs(self) -> int:
        """How often a disk of this machine was waited for; 0 where events are kept elsewhere."""

    async def position(self, stream: str) -> Position:
        """Where the stream stands; one that was not there begins with a new epoch."""

    async def append(
        self, stream: str, data: str, *, id: str | None = None, durable: bool = True, unless: Sequence[str] = ()
    ) -> int:
        """Adds an event and gives back its offset; that of the first one when ``id`` was appended before.

        Raises Fenced, and adds nothing, when an event of an id in ``unless`` is there; that is looked at and done in
        one step. An id is known for as long as its event is kept.
        On a volatile stream ``durable`` waits for the file, but the event still goes with its stream in a crash.
        Raises OSError when a durable event cannot be written, ValueError for an id on a volatile stream.
        """

    async def recovers(self, stream: str, epoch: str, after: int) -> bool:
        """Whether every event after ``after`` of that epoch is still there to be read."""

    async def read(self, stream: str, after: int, limit: int) -> list[Event]:
        """Up to ``limit`` events after that offset, oldest first."""

    def subscribe(self, stream: str, after: int) -> AsyncIterator[list[Event]]:
        """What is there after that offset, then what comes, in batches without a gap or a repeat; it never ends.

        Raises PositionLost when the reader has fallen behind what is kept.
        """

    async def mark(self, stream: str, reader: str, offset: int) -> Mark:
        """The reader has read up to there: the first mark stands where it is put, later ones only move it onward.

        Never beyond the last event. An event appended after this returned never survives a crash without the mark.
        """

    async def advance(self, stream: str, reader: str, offset: int) -> bool:
        """As ``mark``, where the reader has a mark; whether they have one."""

    async def unmark(self, stream: str, reader: str) -> None:
        """What is unread there is no longer counted for the reader."""

    async def marks(self, reader: str) -> dict[str, Mark]:
        """Every stream that the reader has marked."""

    async def enter(self, room: str, user: str, connection: str) -> bool:
        """The connection of that user is in the room, for ``PRESENT`` seconds unless it enters again.

        Whether the user was not yet there, by any connection.
        """

    async def leave(self, room: str, user: str, connection: str) -> bool:
        """Whether the user is no longer there, by any connection."""

    async def present(self, room: str) -> list[str]:
        """The users in the room, sorted."""

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        """Whether that holder, and nobody else, has the lease for so many seconds from now. To be renewed before."""

    async def let_go(self, lease: str, holder: str) -> None:
        """The lease may be had by another, if it is this holder's."""

    async def expire(self, stream: str, seconds: float | None) -> None:
        """Forgets the stream after that time; None: keeps it after all."""

    async def sweep(self) -> None:
        """Forgets streams whose time has come and that nobody reads. To be called every minute or so."""

    async def check(self) -> None:
        """Raises OSError unless an event can be written now."""

    async def close(self) -> None:
        """Writes what is not yet written."""
