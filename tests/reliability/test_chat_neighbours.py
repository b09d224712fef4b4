"""Two users of chat, one of whom knows every name of the other: she can read, mark, send and list nothing of his.

Bob is in a room that Alice's token does not allow, and has a conversation with Carol. There is one attempt for each
message type; a new type without an attempt fails. Seen to fail without may_enter in on_join, without the check of
JoinedRooms in addressee, readable and on_presence, and with broadcast allowed to all.
"""

import json
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

import pytest

from handlers.chat import ChatWebSocket
from tests.support.chats import Chatter
from tests.support.running import GUARD, Server


class Recorder(Chatter):
    """Records every message it receives, except errors, unread counts and empty histories."""

    heard = ""

    async def receive(self, seconds: float = GUARD) -> dict[str, Any]:
        message = await super().receive(seconds)
        if message["type"] not in ("error", "history", "unread") or message.get("messages"):
            self.heard += json.dumps(message) + "\n"
        return message


Attempt = Callable[[Server, Chatter], Awaitable[None]]
numbers = count(1)
SECRETS = ("under the stone", "the key is")
# Names with which Alice tries to reach the messages between Bob and Carol.
STREAMS = (
    "room/den",
    "direct/bob/carol",
    "direct/bob%2Fcarol",
    "chat/direct/bob/carol",
    "chat/room/den",
    "user/bob",
    "direct/../bob/carol",
    "room/den ",
    "room/%64en",
    "direct/",
    "room/",
    "chat/live/den",
    "chat/user/bob",
)


@pytest.fixture
def den(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("den"), connections_per_user=100, chat_rate=1000)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def refused(alice: Chatter, *codes: str) -> dict[str, Any]:
    """Checks that her last message was answered with one of these errors."""
    error = await alice.wait_for("error")
    assert error["code"] in codes, error
    return error


async def join(server: Server, alice: Chatter) -> None:
    for room in ("den", "DEN", "d*", "*", "[d]en", "de\u0144", "%64en", "den\u200b"):
        await alice.send("join", room=room, after=0)
        await refused(alice, "forbidden")
    for room in ("den ", " den", "../den", "den/", "harbour/../den"):
        await alice.send("join", room=room, after=0)
        await refused(alice, "bad_message")


async def leave(server: Server, alice: Chatter) -> None:
    await alice.send("leave", room="den")
    await refused(alice, "not_found")


async def typing(server: Server, alice: Chatter) -> None:
    await alice.send("typing", room="den")
    await refused(alice, "not_found")
    await alice.send("typing", to="bob", **{"from": "carol"})
    await refused(alice, "bad_message")


async def send(server: Server, alice: Chatter) -> None:
    """With ids that others have used, and with members that only the server may set."""
    for id in ("bob-1", "carol-1"):
        await alice.send("send", room="den", client_id=id, text="x")
        await refused(alice, "not_found")
    for member in ("from", "at", "stream", "offset"):
        await alice.send("send", to="dave", client_id="x", text="x", **{member: "carol"})
        await refused(alice, "bad_message")
    assert await alice.say("mine", "carol-1", to="dave") == 1
    assert await alice.say("mine", "carol-1", to="bob/carol") == 1


async def read(server: Server, alice: Chatter) -> None:
    for stream in STREAMS:
        await alice.send("read", stream=stream, offset=1)
    for stream in ("direct/bob", "direct/carol"):  # her own conversations with them, which are empty
        await alice.send("read", stream=stream, offset=1)


async def history(server: Server, alice: Chatter) -> None:
    for stream in (*STREAMS, "direct/bob", "direct/carol"):
        await alice.send("history", stream=stream)
        answer = await alice.wait_for("history", "error")
        assert answer.get("messages", []) == []


async def presence(server: Server, alice: Chatter) -> None:
    await alice.send("presence", room="den")
    await refused(alice, "not_found")


async def broadcast(server: Server, alice: Chatter) -> None:
    await alice.send("broadcast", text="I am the administrator")
    await refused(alice, "forbidden")


async def token(server: Server, alice: Chatter) -> None:
    """Neither another user's upload, nor one of her own that is not for chat."""
    for other in (server.token("bob", "chat"), server.token("alice", "images")):
        await alice.send("token", token=other)
        await refused(alice, "forbidden")
    await alice.send("join", room="den")
    await refused(alice, "forbidden")


MESSAGES: dict[str, Attempt] = {
    "join": join,
    "leave": leave,
    "typing": typing,
    "send": send,
    "read": read,
    "history": history,
    "presence": presence,
    "broadcast": broadcast,
    "token": token,
}


def test_every_message_type_has_a_row() -> None:
    assert {"token", *ChatWebSocket.accepts} == MESSAGES.keys()


@pytest.mark.parametrize("row", MESSAGES)
async def test_nothing_of_a_neighbour_is_read_marked_said_in_or_listed(den: Server, row: str) -> None:
    async with (
        await Recorder.enter(den, "alice", rooms=["harbour"]) as alice,
        await Chatter.enter(den, "bob") as bob,
        await Chatter.enter(den, "carol") as carol,
    ):
        assert isinstance(alice, Recorder)
        await alice.join("harbour")
        await bob.join("den")
        await carol.join("den")
        assert await carol.say(SECRETS[0], "carol-1", room="den") == 1
        assert await carol.say(SECRETS[1], "carol-1", to="bob") == 1
        assert sorted(await bob.hear(2)) == sorted((1, secret) for secret in SECRETS)
        await MESSAGES[row](den, alice)
        await alice.send("history", stream="direct/alice", limit=1)
        await alice.wait_for("history", stream="direct/alice")
        for secret in (*SECRETS, '"bob"', '"direct/bob"', "room/den"):
            assert secret not in alice.heard
        # Nothing has changed, and the conversation continues.
        assert await bob.say("still here", "bob-1", room="den") == 2
        assert await bob.say("still here", "bob-1", to="carol") == 2
        await carol.send("presence", room="den")
        answer = await carol.wait_for("presence")
        while "present" not in answer:
            answer = await carol.wait_for("presence")
        assert answer["present"] == ["bob", "carol"]
        await alice.say("is anybody there", room="harbour")
    async with await Chatter.enter(den, "carol") as carol:
        assert carol.unread == {"room/den": 1, "direct/bob": 1}
        assert await carol.hear(1) == [(2, "still here")]


NAMES = (
    "BOB",
    "bob ",
    " bob",
    "bob/",
    "/bob",
    "../bob",
    "bob/carol",
    "bob'--",
    "bob%",
    "bo_",
    "b\u00f3b",
    "bob%2Fcarol",
)


@pytest.mark.parametrize("name", NAMES)
async def test_a_direct_message_is_only_for_its_receiver_whatever_their_name(server: Server, name: str) -> None:
    number = next(numbers)
    async with await Chatter.enter(server, f"{number}carol") as carol:
        await carol.say(SECRETS[0], to=f"{number}bob")
    async with await Chatter.enter(server, name.replace("bob", f"{number}bob")) as other:
        assert other.unread == {}
        for wire in (f"direct/{number}carol", f"direct/{number}bob"):
            await other.send("history", stream=wire)
            assert (await other.wait_for("history"))["messages"] == []
    async with await Chatter.enter(server, f"{number}bob") as bob:
        assert await bob.hear(1) == [(1, SECRETS[0])]


@pytest.mark.parametrize("name", ["DEN", "den.", "%64en", "den%20", "d\u00ebn", "den*", "de_", "den\u200b", "room:den"])
async def test_rooms_that_look_alike_are_as_many_rooms(server: Server, name: str) -> None:
    """A user who may enter any room still receives only the rooms they have joined."""
    number = next(numbers)
    async with await Chatter.enter(server, "bob") as bob, await Chatter.enter(server, "alice") as alice:
        await bob.join(f"{number}den")
        await bob.say(SECRETS[0], room=f"{number}den")
        joined = await alice.join(f"{number}{name}", after=0)
        assert (joined["offset"], joined["present"]) == (0, ["alice"])
        await alice.send("history", stream=f"room/{number}{name}")
        assert (await alice.wait_for("history"))["messages"] == []
