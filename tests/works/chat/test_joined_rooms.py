"""Which rooms and conversations the messages of a connection may name. This depends on the rooms that the connection
has joined.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from works.chat.joined_rooms import JoinedRooms
from works.chat.places import direct, room
from works.errors import WorkError


@pytest.fixture
async def rooms() -> JoinedRooms:
    """Returns the joined rooms of alice. She has joined one room, may join two at most, and may not enter the room
    vault.
    """
    joined = JoinedRooms("alice", 2, lambda name: name != "vault")
    joined["harbour"] = asyncio.create_task(asyncio.sleep(0))
    return joined


async def test_a_joined_room_and_any_conversation_may_be_named(rooms: JoinedRooms) -> None:
    assert rooms.place("harbour") == room("harbour")
    assert rooms.addressee("send", "harbour", None) == room("harbour")
    assert rooms.addressee("send", None, "bob") == direct("bob", "alice")
    assert rooms.readable("room/harbour") == room("harbour")
    assert rooms.readable("direct/bob") == direct("alice", "bob")
    rooms.check_join("market")


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        (lambda rooms: rooms.place("nowhere"), "not_found", "join 'nowhere' first"),
        (lambda rooms: rooms.addressee("send", "nowhere", None), "not_found", "join 'nowhere' first"),
        (lambda rooms: rooms.addressee("send", "", None), "not_found", "join '' first"),
        (lambda rooms: rooms.addressee("send", None, None), "bad_message", "send: set either room or to"),
        (lambda rooms: rooms.addressee("typing", "harbour", "bob"), "bad_message", "typing: set either room or to"),
        (lambda rooms: rooms.readable("room/nowhere"), "not_found", "join 'nowhere' first"),
        (lambda rooms: rooms.readable("chat/room/harbour"), "bad_message", "room/NAME"),
        (lambda rooms: rooms.readable("direct/"), "bad_message", "direct/NAME"),
        (lambda rooms: rooms.readable("direct/" + "b" * 201), "bad_message", "direct/NAME"),
        (lambda rooms: rooms.check_join("harbour"), "bad_message", "already joined"),
        (lambda rooms: rooms.check_join("vault"), "forbidden", "does not allow 'vault'"),
    ],
)
async def test_other_places_are_refused(
    rooms: JoinedRooms, call: Callable[[JoinedRooms], Any], code: str, text: str
) -> None:
    with pytest.raises(WorkError, match=text) as refused:
        call(rooms)
    assert refused.value.code == code


async def test_no_more_rooms_than_the_limit_are_joined(rooms: JoinedRooms) -> None:
    rooms["market"] = rooms["harbour"]
    with pytest.raises(WorkError, match=r"at most 2 rooms may be joined \(chat_rooms\)"):
        rooms.check_join("station")
