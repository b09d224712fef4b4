"""Two users of chat: Alice knows all names of Bob. These names must not allow her to read, mark, send or list anything
of Bob.

Bob is in a room that Alice's token does not allow, and he writes with Carol. MESSAGES has a row for each message type;
a new type without a row fails the test. These tests fail when one of these defences is removed: may_enter in on_join;
the check of JoinedRooms in addressee, in readable or in on_presence; the scope that a broadcast needs.
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
    """A client that records all messages except errors and empty answers, which repeat the names that the
    client sent.
    """

    heard = ""

    async def receive(self, seconds: float = GUARD) -> dict[str, Any]:
        message = await super().receive(seconds)
        if message["type"] not in ("error", "history", "unread") or message.get("messages"):
            self.heard += json.dumps(message) + "\n"
        return message


Attempt = Callable[[Server, Chatter], Awaitable[None]]
numbers = count(1)
SECRETS = ("under the stone", "the key is")
# Names that Alice may try in order to reach the room or the conversation of Bob and Carol.
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
    """Checks that the last message of Alice got one of these errors."""
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
    """Sends with the client ids of other users, and with members that only the server may set."""
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
    for stream in ("direct/bob", "direct/carol"):  # Alice's conversations with them, which are empty
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
    """Sends a token of another user, and a token of Alice without the scope chat."""
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
async def test_a_user_cannot_read_mark_send_or_list_anything_of_another_user(den: Server, row: str) -> None:
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
        # Nothing of Bob has changed, and Bob can still send.
        assert await bob.say("still here", "bob-1", room="den") == 2
        assert await bob.say("still here", "bob-1", to="carol") == 2
        assert await carol.present("den") == ["bob", "carol"]
        await alice.say("hello", room="harbour")
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
async def test_only_the_receiver_reads_a_message_even_when_names_look_alike(server: Server, name: str) -> None:
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
async def test_rooms_with_similar_names_are_different_rooms(server: Server, name: str) -> None:
    """A user who may enter every room still receives messages only of the rooms that they have joined."""
    number = next(numbers)
    async with await Chatter.enter(server, "bob") as bob, await Chatter.enter(server, "alice") as alice:
        await bob.join(f"{number}den")
        await bob.say(SECRETS[0], room=f"{number}den")
        joined = await alice.join(f"{number}{name}", after=0)
        assert (joined["offset"], joined["present"]) == (0, ["alice"])
        await alice.send("history", stream=f"room/{number}{name}")
        assert (await alice.wait_for("history"))["messages"] == []
