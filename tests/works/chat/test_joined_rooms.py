"""The places that the messages of a connection may name, which depend on the rooms that it has joined."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from works.chat.joined_rooms import JoinedRooms
from works.chat.places import direct, room
from works.errors import WorkError


@pytest.fixture
async def rooms() -> JoinedRooms:
    """The joined rooms of alice: she has joined one of at most two rooms, and may not enter the vault."""
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
    ("asked", "code", "said"),
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
    rooms: JoinedRooms, asked: Callable[[JoinedRooms], Any], code: str, said: str
) -> None:
    with pytest.raises(WorkError, match=said) as refused:
        asked(rooms)
    assert refused.value.code == code


async def test_no_more_rooms_than_the_limit_are_joined(rooms: JoinedRooms) -> None:
    rooms["market"] = rooms["harbour"]
    with pytest.raises(WorkError, match=r"at most 2 rooms may be joined \(chat_rooms\)"):
        rooms.check_join("station")
