"""An EventStore is what one URL of events opens: one implementation of each interface, opened and closed together."""

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
        """How often a disk of this machine was waited for; 0 where events are kept elsewhere."""

    async def sweep(self) -> None:
        """Deletes expired streams that have no reader. To be called every minute or so. Raises OSError."""

    async def check(self) -> None:
        """Raises OSError unless an event can be written now."""

    async def close(self) -> None:
        """Writes what is not yet written, and lets go of the file or the connections."""
