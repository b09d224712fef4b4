"""Presence in Redis: entries expire, so each process enters its connections again and again while it lives."""

import asyncio

from works.events.redis.calls import Argument, RedisCalls

# Connections entered again at once.
_PAGE = 500

Entry = tuple[str, str, str]
"""Room, user and connection."""


class RedisPresence:
    """``present``: seconds after which an entry expires; ``refresh`` is to be called more often than that."""

    def __init__(self, calls: RedisCalls, present: float) -> None:
        self._calls, self._present = calls, present
        # The connections of this process that are present, in the order in which they entered.
        self._entered: dict[Entry, None] = {}

    async def enter(self, room: str, user: str, connection: str) -> bool:
        entry = (room, user, connection)
        new = entry not in self._entered
        self._entered[entry] = None
        try:
            return bool(await self._calls.call("enter", *self._arguments(entry)))
        except BaseException:
            if new:
                self._entered.pop(entry, None)
            raise

    async def leave(self, room: str, user: str, connection: str) -> bool:
        entry = (room, user, connection)
        self._entered.pop(entry, None)
        return bool(await self._calls.call("leave", *self._arguments(entry)))

    async def present(self, room: str) -> list[str]:
        return sorted(await self._calls.call("present", room, done="read"))

    async def refresh(self) -> None:
        """Enters again whatever is present by this process. What fails is done by the next refresh."""
        entries = list(self._entered)
        for first in range(0, len(entries), _PAGE):
            still = [entry for entry in entries[first : first + _PAGE] if entry in self._entered]
            calls = (self._calls.call("enter", *self._arguments(entry)) for entry in still)
            await asyncio.gather(*calls, return_exceptions=True)

    def leave_all(self) -> None:
        """All connections of this process leave with the next calls. To be called before the calls are closed."""
        for entry in self._entered:
            self._calls.send("leave", *self._arguments(entry))
        self._entered.clear()

    def _arguments(self, entry: Entry) -> tuple[Argument, ...]:
        """Those of the scripts ``enter`` and ``leave``."""
        room, user, _ = entry
        return *entry, f"{len(room)}:{room}:{user}", self._calls.new_id(), self._present
