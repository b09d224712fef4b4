"""/ws/chat: rooms, conversations, offline delivery, unread counts, presence."""

import asyncio
import signal

import httpx
import pytest

from handlers.chat import ChatWebSocket, Send
from handlers.core.client_message import validate
from tests.support.chats import Chatter
from tests.support.pictures import small
from tests.support.running import Server, Start
from works.errors import WorkError


@pytest.fixture
def server(start_here: Start) -> Server:
    """A server for each test, because rooms outlive their members."""
    return start_here()


async def test_messages_of_a_room_reach_all_members_in_order(server: Server) -> None:
    async with (
        await Chatter.enter(server, "alice") as alice,
        await Chatter.enter(server, "bob") as bob,
        await Chatter.enter(server, "carol") as carol,
    ):
        assert (await alice.join("harbour"))["offset"] == 0
        await bob.join("harbour")
        for number in range(1, 6):
            assert await alice.say(f"a{number}", room="harbour") == number
        expected = [(number, f"a{number}") for number in range(1, 6)]
        assert await bob.hear(5) == expected
        assert await bob.present("harbour") == ["alice", "bob"]
        joined = await carol.join("harbour", after=0)
        assert (joined["recovered"], joined["unread"], joined["offset"]) == (True, 0, 5)
        assert await carol.hear(5) == expected


async def test_a_message_has_its_sender_time_and_place(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        await alice.send("send", room="harbour", client_id="1", text="hello <b>you</b>")
        said = await alice.wait_for("message")
        assert {name: said[name] for name in ("stream", "offset", "from", "text", "attachments")} == {
            "stream": "room/harbour",
            "offset": 1,
            "from": "alice",
            "text": "hello <b>you</b>",
            "attachments": [],
        }
        assert said["at"] > 1_700_000_000_000


async def test_messages_to_a_user_who_is_offline_wait_in_order_and_count_as_unread(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "carol") as carol:
        for number in range(1, 4):
            await alice.say(f"m{number}", to="bob")
        await carol.say("from carol", to="bob")
    async with await Chatter.enter(server, "bob") as bob:
        assert bob.unread == {"direct/alice": 3, "direct/carol": 1}
        assert await bob.hear(4) == [(1, "m1"), (2, "m2"), (3, "m3"), (1, "from carol")]
        await bob.send("read", stream="direct/alice", offset=2)
        await bob.counted("direct/alice", 1)
    async with await Chatter.enter(server, "bob") as bob:
        assert bob.unread == {"direct/alice": 1, "direct/carol": 1}
        assert await bob.hear(2) == [(3, "m3"), (1, "from carol")]


async def test_a_read_mark_applies_to_all_devices_of_the_user(server: Server) -> None:
    async with (
        await Chatter.enter(server, "bob") as phone,
        await Chatter.enter(server, "bob") as laptop,
        await Chatter.enter(server, "alice") as alice,
    ):
        await alice.say("hello", to="bob")
        assert await phone.hear(1) == await laptop.hear(1) == [(1, "hello")]
        await laptop.counted("direct/alice", 1)
        await phone.send("read", stream="direct/alice", offset=1)
        await laptop.counted("direct/alice", 0)
        # An answer is also sent to all devices of its author, and marks the message before it as read.
        await phone.say("hi", to="alice")
        assert await laptop.hear(1) == [(2, "hi")]
        assert await alice.hear(2) == [(1, "hello"), (2, "hi")]


async def test_a_room_that_is_not_joined_is_counted(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        async with await Chatter.enter(server, "bob") as bob:
            await bob.join("harbour")
        await alice.say("one", room="harbour")
        async with await Chatter.enter(server, "bob") as bob:
            assert bob.unread == {"room/harbour": 1}
            await alice.say("two", room="harbour")
            await bob.counted("room/harbour", 2)
            assert (await bob.join("harbour", after=0))["unread"] == 2
            assert await bob.hear(2) == [(1, "one"), (2, "two")]
            await bob.send("leave", room="harbour")
            await bob.counted("room/harbour", None)
            await alice.say("three", room="harbour")
        async with await Chatter.enter(server, "bob") as bob:
            assert bob.unread == {}, "who has left is not counted for"


async def test_a_room_joined_or_left_on_one_device_is_counted_or_not_on_all(server: Server) -> None:
    async with (
        await Chatter.enter(server, "kim") as phone,
        await Chatter.enter(server, "kim") as laptop,
        await Chatter.enter(server, "alice") as alice,
    ):
        await alice.join("quay")
        await phone.join("quay")
        await laptop.counted("room/quay", 0)
        await alice.say("one", room="quay")
        await laptop.counted("room/quay", 1)
        await phone.send("leave", room="quay")
        await laptop.counted("room/quay", None)
        await alice.say("two", room="quay")
        await laptop.join("quay")
        assert await alice.say("three", room="quay") == 3
        assert await laptop.hear(1) == [(3, "three")]


async def test_a_read_mark_beyond_the_last_message_changes_nothing(server: Server) -> None:
    async with await Chatter.enter(server, "lee") as lee:
        await lee.send("read", stream="direct/unknown", offset=3)
        await lee.join("lobby")
    async with await Chatter.enter(server, "lee") as lee:
        assert lee.unread == {"room/lobby": 0}


async def test_the_same_client_id_twice_is_one_message(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("harbour")
        await bob.join("harbour")
        assert [await alice.say("hello", "x", room="harbour") for _ in range(3)] == [1, 1, 1]
        assert await bob.hear(1) == [(1, "hello")]
        assert await bob.say("of another", "x", room="harbour") == 2


async def test_a_message_can_have_only_uploads_of_its_sender(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.token('alice', 'chat')}"}
    async with httpx.AsyncClient(headers=headers) as http:
        picture = (await http.post(f"{server.url}/upload", content=small())).json()
        async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
            await alice.send("send", to="bob", client_id="1", attachments=[picture["id"]])
            (shown,) = (await bob.wait_for("message"))["attachments"]
            assert (shown["id"], shown["kind"], shown["type"]) == (picture["id"], "image", picture["type"])
            assert (await http.get(server.url + shown["url"])).content == small()
            assert (await http.get(server.url + shown["thumbnail"])).status_code == 200
            for id in (picture["id"], "0" * 32, "../secrets"):
                await bob.send("send", to="alice", client_id=id, attachments=[id])
                error = await bob.wait_for("error", client_id=id)
                assert error["code"] == "not_found"


async def test_history_is_read_backward_in_pages(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        for number in range(1, 8):
            await alice.say(f"m{number}", room="harbour")
        pages = []
        before: dict[str, int] = {}
        while not pages or pages[-1]["more"]:
            await alice.send("history", stream="room/harbour", limit=3, **before)
            pages.append(await alice.wait_for("history"))
            before = {"before": pages[-1]["messages"][0]["offset"]}
        assert [[message["offset"] for message in page["messages"]] for page in pages] == [[5, 6, 7], [2, 3, 4], [1]]
        assert pages[0]["messages"][0]["type"] == "message"


async def test_members_who_enter_leave_and_type_are_reported(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        async with await Chatter.enter(server, "bob") as bob:
            assert (await bob.join("harbour"))["present"] == ["alice", "bob"]
            assert (await alice.wait_for("presence", entered="bob"))["room"] == "harbour"
            await bob.send("typing", room="harbour")
            assert await alice.wait_for("typing", **{"from": "bob", "stream": "room/harbour"})
            await bob.send("typing", to="alice")
            assert await alice.wait_for("typing", **{"from": "bob", "stream": "direct/bob"})
        assert (await alice.wait_for("presence", left="bob"))["room"] == "harbour"


async def test_an_administrator_sends_an_announcement_to_all(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "root", "chat admin") as root:
        await alice.send("broadcast", text="no")
        assert (await alice.wait_for("error"))["code"] == "forbidden"
        await root.send("broadcast", text="the server restarts at noon")
        assert (await alice.wait_for("announcement"))["text"] == "the server restarts at noon"


async def test_only_rooms_that_the_token_names_can_be_joined(server: Server) -> None:
    async with await Chatter.enter(server, "alice", rooms=["team-*", "harbour"]) as alice:
        await alice.join("team-blue")
        await alice.join("harbour")
        await alice.send("join", room="vault")
        assert (await alice.wait_for("error"))["code"] == "forbidden"


async def test_messages_marks_and_counts_survive_a_kill(start: Start) -> None:
    server = start()
    async with await Chatter.enter(server, "alice") as alice:
        await alice.join("harbour")
        await alice.say("in the room", room="harbour")
        await alice.say("to bob", to="bob")
        server.stop(signal.SIGKILL)
    again = start()
    async with await Chatter.enter(again, "bob") as bob:
        assert bob.unread == {"direct/alice": 1}
        assert await bob.hear(1) == [(1, "to bob")]
        assert (await bob.join("harbour", after=0))["recovered"]
        assert await bob.hear(1) == [(1, "in the room")]


async def test_an_error_names_the_message_that_caused_it(server: Server) -> None:
    async with await Chatter.enter(server, "alice") as alice:
        await alice.send("send", room="nowhere", client_id="1", text="x")
        await alice.send("leave", room="nowhere")
        await alice.send("presence", room="nowhere")
        await alice.send("typing", room="nowhere")
        await alice.send("history", stream="room/nowhere")
        await alice.send("read", stream="room/nowhere", offset=1)
        room, stream = {"room": "nowhere"}, {"stream": "room/nowhere"}
        for echoed in ({"client_id": "1", **room}, room, room, room, stream, stream):
            error = await alice.wait_for("error")
            assert (error["code"], error["message"]) == ("not_found", "room: join 'nowhere' first")
            assert {name: error[name] for name in ("client_id", "room", "stream") if name in error} == echoed
        await alice.send("send", to="bob", client_id="2", text="x" * 4001)
        error = await alice.wait_for("error")
        assert (error["code"], error["client_id"]) == ("too_large", "2")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"type": "send", "to": "bob", "text": "x"}, "client_id"),
        ({"type": "send", "to": "", "client_id": "1", "text": "x"}, "to"),
        ({"type": "send", "to": "b" * 201, "client_id": "1", "text": "x"}, "to"),
        ({"type": "join", "room": "a/b"}, "room"),
        ({"type": "join", "room": ""}, "room"),
        ({"type": "join", "room": "r" * 101}, "room"),
        ({"type": "join", "room": "a", "after": -1}, "after"),
        ({"type": "history", "stream": "direct/bob", "limit": 101}, "limit"),
        ({"type": "history", "stream": "direct/bob", "limit": True}, "limit"),
        ({"type": "read", "stream": "direct/bob"}, "offset"),
        ({"type": "presence", "room": "a", "roon": "b"}, "roon"),
        ({"type": "shout"}, "is unknown; use"),
        ({"type": ["join"]}, "is unknown; use"),
        ({}, "is unknown; use"),
    ],
)
def test_a_message_that_does_not_fit_its_schema_is_refused(message: dict[str, object], said: str) -> None:
    with pytest.raises(WorkError, match=said) as refused:
        validate(message, ChatWebSocket.accepts)
    assert refused.value.code == "bad_message"


@pytest.mark.parametrize(("text", "code"), [(" \n", "bad_message"), ("", "bad_message"), ("x" * 4001, "too_large")])
def test_an_empty_or_too_long_text_is_refused(text: str, code: str) -> None:
    with pytest.raises(WorkError, match="text: ") as refused:
        Send(type="send", to="bob", client_id="1", text=text).check_text(4000)
    assert refused.value.code == code
    Send(type="send", to="bob", client_id="1", text="x" * 4000).check_text(4000)
    Send(type="send", to="bob", client_id="1", attachments=["1"]).check_text(4000)


async def test_the_number_of_joined_rooms_is_limited(start_here: Start) -> None:
    server = start_here(chat_rate=5000, chat_rooms=10)
    async with await Chatter.enter(server, "alice") as alice:
        for number in range(1000):
            await alice.send("join", room=f"room-{number}")
        answers = [(await alice.wait_for("joined", "error")) for _ in range(1000)]
        assert [answer["type"] for answer in answers].count("joined") == 10
        assert {answer["message"] for answer in answers if answer["type"] == "error"} == {
            "room: at most 10 rooms may be joined (chat_rooms); leave one first"
        }


async def test_a_user_who_sends_too_much_is_warned_and_then_closed(start_here: Start) -> None:
    server = start_here(chat_rate=5)
    async with await Chatter.enter(server, "alice") as alice:
        alice.flood("typing", 5000, to="bob")  # on any machine, this is more than five a second
        assert "chat_rate" in (await alice.wait_for("warning"))["message"]
        assert await alice.closed() == 4429


async def test_a_user_who_stops_reading_does_not_affect_others(start: Start) -> None:
    # The client answers no pings, and must not be closed for that.
    server = start(chat_rate=5000, outbox=100_000, chat_text=20_000, ping_interval=600)
    async with (
        await Chatter.enter(server, "alice") as alice,
        await Chatter.enter(server, "bob") as bob,
        await Chatter.enter(server, "mallory") as mallory,
    ):
        for who in (alice, bob, mallory):
            await who.join("harbour")
        mallory.socket.transport.pause_reading()
        hearing = asyncio.create_task(bob.hear(600))
        for number in range(1, 601):
            assert await alice.say("x" * 19_000, str(number), room="harbour") == number
        assert [offset for offset, _ in await hearing] == list(range(1, 601))
        mallory.socket.transport.resume_reading()
        assert await mallory.closed() in (4508, 1006)
