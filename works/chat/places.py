"""A Place is a room or a conversation of two users: its names on the wire, and its streams.

The names of rooms and users are quoted in the names of streams, so two places never share a stream.
"""

import json
from dataclasses import dataclass
from urllib.parse import quote, unquote

from works.errors import WorkError
from works.events.broker import Event

EVERYBODY = "chat/everybody"
"""The stream of announcements to all connections."""

# Maximum number of characters of a user's name, as in tokens.
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Place:
    """A room, or the conversation of two users. ``stream`` is the durable stream of its messages."""

    stream: str
    room: str = ""
    users: tuple[str, ...] = ()

    def wire_name(self, user: str) -> str:
        """Returns the name on the wire for this user: ``room/NAME``, or ``direct/NAME`` with the name of the other
        user.
        """
        if self.room:
            return f"room/{self.room}"
        return f"direct/{next((name for name in self.users if name != user), user)}"

    def as_message(self, event: Event) -> str:
        """Returns a message of a room as JSON for the wire."""
        return as_message(f"room/{self.room}", event)

    @property
    def live(self) -> str:
        """Returns the volatile stream of a room, with events of users who enter, leave or type."""
        return f"chat/live/{quoted(self.room)}"


def room(name: str) -> Place:
    return Place(f"chat/room/{quoted(name)}", room=name)


def direct(one: str, other: str) -> Place:
    users = tuple(sorted({one, other}))
    return Place(f"chat/direct/{quoted(users[0])}/{quoted(users[-1])}", users=users)


def parse_place(wire: str, user: str) -> Place:
    """Returns the place with this name on the wire, as this user sees it. Raises WorkError."""
    kind, _, name = wire.partition("/")
    if kind not in ("room", "direct") or not 0 < len(name) <= _LONGEST_NAME:
        raise WorkError("bad_message", "stream: must have the form room/NAME or direct/NAME")
    return room(name) if kind == "room" else direct(user, name)


def place_of_stream(stream: str) -> Place | None:
    """Returns the place with this stream, or None for any other stream."""
    parts = stream.split("/")
    if parts[:2] == ["chat", "room"]:
        return room(unquote(parts[2]))
    if parts[:2] == ["chat", "direct"]:
        return direct(unquote(parts[2]), unquote(parts[3]))
    return None


def user_stream(name: str) -> str:
    """Returns the volatile stream on which the connections of this user are notified."""
    return f"chat/user/{quoted(name)}"


def as_message(wire: str, event: Event) -> str:
    """Returns a message as JSON for the wire. The event has all members except type, stream and offset."""
    return f'{{"type":"message","stream":{json.dumps(wire)},"offset":{event.offset},{event.data[1:]}'


def quoted(name: str) -> str:
    return quote(name, safe="")
