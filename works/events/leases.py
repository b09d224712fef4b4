"""A lease has at most one holder at a time, among all processes that share the event store."""

from typing import Protocol


class Leases(Protocol):
    """Every method raises OSError while leases cannot be read or written."""

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        """Takes or renews the lease for so many seconds from now; returns whether ``holder`` has it."""

    async def release(self, lease: str, holder: str) -> None:
        """Lets others take the lease, if it is this holder's."""
