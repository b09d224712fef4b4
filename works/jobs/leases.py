"""The leases of the jobs that run in this process. They are renewed while it lives, and given up before others can take
them.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from works.events.leases import Leases


class LeaseKeeper:
    """``lost`` is called with the id of each job whose lease was not renewed in time. The job must stop here."""

    def __init__(self, leases: Leases, seconds: float, lost: Callable[[str], None]) -> None:
        self._leases, self.seconds, self._lost = leases, seconds, lost
        self._holder = secrets.token_hex(16)
        self._until: dict[str, float] = {}

    async def take(self, id: str) -> bool:
        """Takes a lease. Returns whether this process has it now. Raises OSError."""
        requested_at = time.monotonic()
        if not await self._leases.hold(_name(id), self._holder, self.seconds):
            return False
        self._until[id] = requested_at + self.seconds
        return True

    async def release(self, id: str) -> None:
        if self._until.pop(id, None) is not None:
            with suppress(OSError):  # then it expires
                await self._leases.release(_name(id), self._holder)

    async def keep(self) -> None:
        """Renews all leases until cancelled, three times in the lifetime of a lease."""
        while True:
            await asyncio.gather(*(self._renew(id, until) for id, until in self._until.items()))
            await asyncio.sleep(self.seconds / 3)

    async def _renew(self, id: str, until: float) -> None:
        """Renews a lease, and waits for the answer at most as long as the lease lasts.

        A positive answer counts even if the request was late. Then no other process has the lease, and the history
        shows whether one had it in between.
        """
        third, requested_at = self.seconds / 3, time.monotonic()
        try:
            async with asyncio.timeout(max(until - requested_at, third)):
                held = await self._leases.hold(_name(id), self._holder, self.seconds)
            until = requested_at + self.seconds
        except (OSError, TimeoutError):
            held = until - time.monotonic() > third
        if id not in self._until:  # released in the meantime, maybe before it was taken again
            with suppress(OSError):
                await self._leases.release(_name(id), self._holder)
        elif held:
            self._until[id] = until
        else:
            del self._until[id]
            self._lost(id)


def _name(id: str) -> str:
    return f"job/{id}"
