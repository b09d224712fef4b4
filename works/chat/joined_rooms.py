"""JoinedRooms: the rooms that one connection has joined. Its messages may be sent only there."""

import asyncio
from collections.abc import Callable

from works.chat.places import Place, direct, parse_place, room
from works.errors import WorkError


class JoinedRooms(dict[str, "asyncio.Task[None]"]):
    """The joined rooms by name, each with the task that joins it. ``may_enter`` returns whether the user may join a
    room.
    """

    def __init__(self, user: str, limit: int, may_enter: Callable[[str], bool]) -> None:
        super().__init__()
        self._user, self._limit, self._may_enter = user, limit, may_enter

    def check_join(self, name: str) -> None:
        """Reserves a place for a room to join. Raises WorkError when the room cannot be joined now."""
        if name in self:
            raise WorkError("bad_message", f"room: {name!r} is already joined")
        if not self._may_enter(name):
            raise WorkError("forbidden", f"room: the token does not allow {name!r}")
        if len(self) >= self._limit:
            raise WorkError(
                "bad_message", f"room: at most {self._limit} rooms may be joined (chat_rooms); leave one first"
            )

    def place(self, name: str) -> Place:
        """Removes a room. Raises WorkError for a room that is not joined."""
        if name not in self:
            raise WorkError("not_found", f"room: join {name[:100]!r} first")
        return room(name)

    def addressee(self, kind: str, name: str | None, to: str | None) -> Place:
        """Returns the place of a message: the joined room, or the conversation with the user ``to``.

        Raises WorkError when the room is not joined, or when both or neither are given.
        """
        if name is not None and to is None:
            return self.place(name)
        if to is not None and name is None:
            return direct(self._user, to)
        raise WorkError("bad_message", f"{kind}: set either room or to")

    def readable(self, stream: str) -> Place:
        """Returns the place with this name on the wire: a joined room, or a conversation of this user. Raises
        WorkError.
        """
        place = parse_place(stream, self._user)
        return self.place(place.room) if place.room else place
