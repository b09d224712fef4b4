"""Presence is the list of users who are in a room now. It does not survive the process that reported it."""

from typing import Protocol

# Seconds after which connections of a process count as gone, unless the process has reported them again.
PRESENT = 60.0


class Presence(Protocol):
    """A user may be in a room with several connections. Every method raises OSError while presence cannot be stored."""

    async def enter(self, room: str, user: str, connection: str) -> bool:
        """Adds a connection of the user to the room. It counts until it leaves, or until ``PRESENT`` s after its
        process has died.

        Returns whether the user was not in the room before, with any connection.
        """

    async def leave(self, room: str, user: str, connection: str) -> bool:
        """Removes a connection. Returns whether the user was in the room and no longer is, with any connection."""

    async def present(self, room: str) -> list[str]:
        """Returns the users in the room, sorted by name."""
