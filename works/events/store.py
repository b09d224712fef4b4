"""An EventStore has an implementation of each interface for one URL. They are opened and closed together."""

from typing import Protocol

from works.events.broker import Broker
from works.events.leases import Leases
from works.events.marks import Marks
from works.events.presence import Presence


class EventStore(Protocol):
    @property
    def broker(self) -> Broker: ...

    @property
    def marks(self) -> Marks: ...

    @property
    def presence(self) -> Presence: ...

    @property
    def leases(self) -> Leases: ...

    @property
    def syncs(self) -> int:
        """How often the disk of this machine was waited for, or 0 when events are stored elsewhere."""

    async def sweep(self) -> None:
        """Deletes expired streams without a reader. To be called about every minute. Raises OSError."""

    async def check(self) -> None:
        """Raises OSError when an event cannot be written now."""

    async def close(self) -> None:
        """Writes pending events and closes the file or the connections."""
