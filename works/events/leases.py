"""A lease has at most one holder at a time, among all processes with the same event store."""

from typing import Protocol


class Leases(Protocol):
    """Every method raises OSError while leases cannot be read or written."""

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        """Takes or renews the lease for this many seconds. Returns whether ``holder`` has it now."""

    async def release(self, lease: str, holder: str) -> None:
        """Releases the lease if ``holder`` has it."""
