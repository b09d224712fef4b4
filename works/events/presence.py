"""Presence says which users are in a room now. It is forgotten when the process that reported it dies."""

from typing import Protocol

# Seconds after which the connections of a process are taken to be gone, unless it has entered them again.
PRESENT = 60.0


class Presence(Protocol):
    """A user may be in a room by several connections. Every method raises OSError while presence cannot be kept."""

    async def enter(self, room: str, user: str, connection: str) -> bool:
        """The connection of that user is in the room until it leaves, or for ``PRESENT`` s after this process has died.

        Returns whether the user was not there yet, by any connection.
        """

    async def leave(self, room: str, user: str, connection: str) -> bool:
        """Returns whether the user was there and no longer is, by any connection."""

    async def present(self, room: str) -> list[str]:
        """The users in the room, sorted."""
