"""JoinedRooms: the rooms that one connection has joined, and so the places that its messages may name."""

import asyncio
from collections.abc import Callable

from works.chat.places import Place, direct, parse_place, room
from works.errors import WorkError


class JoinedRooms(dict[str, "asyncio.Task[None]"]):
    """By name of the room, the task that joins it. ``may_enter`` says whether the user may join a room."""

    def __init__(self, user: str, limit: int, may_enter: Callable[[str], bool]) -> None:
        super().__init__()
        self._user, self._limit, self._may_enter = user, limit, may_enter

    def check_join(self, name: str) -> None:
        """Raises WorkError for a room that cannot be joined now."""
        if name in self:
            raise WorkError("bad_message", f"room: {name!r} is joined already")
        if not self._may_enter(name):
            raise WorkError("forbidden", f"the token's rooms do not include {name!r}")
        if len(self) >= self._limit:
            raise WorkError("bad_message", f"at most {self._limit} rooms are joined at once (chat_rooms)")

    def place(self, name: str) -> Place:
        """Raises WorkError for a room that is not joined."""
        if name not in self:
            raise WorkError("not_found", f"room: join {name[:100]!r} first")
        return room(name)

    def addressee(self, kind: str, name: str | None, to: str | None) -> Place:
        """The joined room, or the conversation with the user ``to``, that a message of this kind is for. Raises
        WorkError."""
        if name is not None and to is None:
            return self.place(name)
        if to is not None and name is None:
            return direct(self._user, to)
        raise WorkError("bad_message", f"{kind}: say either room or to")

    def readable(self, stream: str) -> Place:
        """The place of this name on the wire: a joined room, or a conversation of this user. Raises WorkError."""
        place = parse_place(stream, self._user)
        return self.place(place.room) if place.room else place
