"""The leases of the jobs that run in this process: renewed while it lives, given up before another can take them."""

import asyncio
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from works.events.leases import Leases


class LeaseKeeper:
    """``lost`` is called with the id of each job whose lease was not renewed in time: it must not go on here."""

    def __init__(self, leases: Leases, seconds: float, lost: Callable[[str], None]) -> None:
        self._leases, self.seconds, self._lost = leases, seconds, lost
        self._holder = secrets.token_hex(16)
        self._until: dict[str, float] = {}

    async def take(self, id: str) -> bool:
        """Whether this process has the lease, and no other. Raises OSError."""
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
        """Renews until cancelled, three times in the time that a lease lasts."""
        while True:
            await asyncio.gather(*(self._renew(id, until) for id, until in self._until.items()))
            await asyncio.sleep(self.seconds / 3)

    async def _renew(self, id: str, until: float) -> None:
        """Waits for the answer no longer than the lease lasts. An answer counts even if the request came too late: no
        other process has the lease, and the history says whether one had it meanwhile."""
        third, requested_at = self.seconds / 3, time.monotonic()
        try:
            async with asyncio.timeout(max(until - requested_at, third)):
                held = await self._leases.hold(_name(id), self._holder, self.seconds)
            until = requested_at + self.seconds
        except (OSError, TimeoutError):
            held = until - time.monotonic() > third
        if id not in self._until:  # released meanwhile, maybe before it was held again
            with suppress(OSError):
                await self._leases.release(_name(id), self._holder)
        elif held:
            self._until[id] = until
        else:
            del self._until[id]
            self._lost(id)


def _name(id: str) -> str:
    return f"job/{id}"
