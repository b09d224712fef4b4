"""Presence and leases of a single process, in memory. They end with the process, as they must."""

import time


class MemoryPresence:
    def __init__(self) -> None:
        # Room -> user -> connections of the user.
        self._rooms: dict[str, dict[str, set[str]]] = {}

    async def enter(self, room: str, user: str, connection: str) -> bool:
        users = self._rooms.setdefault(room, {})
        first = user not in users
        users.setdefault(user, set()).add(connection)
        return first

    async def leave(self, room: str, user: str, connection: str) -> bool:
        users = self._rooms.get(room, {})
        connections = users.get(user, set())
        connections.discard(connection)
        if connections:
            return False
        gone = users.pop(user, None) is not None
        if not users:
            self._rooms.pop(room, None)
        return gone

    async def present(self, room: str) -> list[str]:
        return sorted(self._rooms.get(room, {}))


class MemoryLeases:
    def __init__(self) -> None:
        # Lease -> its holder, and its end by the monotonic clock.
        self._leases: dict[str, tuple[str, float]] = {}

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        now = time.monotonic()
        held, until = self._leases.get(lease, (holder, now))
        if held != holder and until > now:
            return False
        self._leases[lease] = holder, now + seconds
        return True

    async def release(self, lease: str, holder: str) -> None:
        if self._leases.get(lease, ("", 0))[0] == holder:
            del self._leases[lease]
