"""Presence in Redis. Entries expire, so each process enters its connections again and again."""

import asyncio

from works.events.redis.calls import Argument, RedisCalls

# Connections that are entered again at a time.
_PAGE = 500

Entry = tuple[str, str, str]
"""The room, the user and the id of the connection."""


class RedisPresence:
    """``present``: seconds after which an entry expires. ``refresh`` must be called more often than that."""

    def __init__(self, calls: RedisCalls, present: float) -> None:
        self._calls, self._present = calls, present
        # The present connections of this process, in the order in which they entered.
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
        """Enters all present connections of this process again. The next refresh repeats what fails."""
        entries = list(self._entered)
        for first in range(0, len(entries), _PAGE):
            still = [entry for entry in entries[first : first + _PAGE] if entry in self._entered]
            calls = (self._calls.call("enter", *self._arguments(entry)) for entry in still)
            await asyncio.gather(*calls, return_exceptions=True)

    def leave_all(self) -> None:
        """Removes all connections of this process. To be called before the calls are closed."""
        for entry in self._entered:
            self._calls.send("leave", *self._arguments(entry))
        self._entered.clear()

    def _arguments(self, entry: Entry) -> tuple[Argument, ...]:
        """Returns the arguments of the scripts ``enter`` and ``leave``."""
        room, user, _ = entry
        return *entry, f"{len(room)}:{room}:{user}", self._calls.new_id(), self._present
