"""Places (rooms, and conversations of two users) never share a stream, whatever their names are. Chat and Inbox behave
the same with every kind of event store.

The tests were seen to fail with each of these faults in the code: a slash that is not quoted in the name of a place; an
event id of Chat.post without the client's id or without the sender; no marks set before a message is stored; a history
without a limit at its end; marks set during a checkpoint of SQLite; no epoch of a stream before its first event; an
Inbox that counts unread messages before it subscribes; an Inbox that sends a count although a message was sent after
the count.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.event_stores import every_kind, fill, opened
from tests.support.running import full_disk, until
from tests.works.events.test_fanout import Listener
from works.chat.messages import Chat
from works.chat.places import Place, as_message, direct, parse_place, place_of_stream, room, user_stream
from works.chat.unread import Inbox
from works.errors import WorkError
from works.events.broker import Event
from works.events.marks import Mark
from works.events.store import EventStore

# Names that a path, a URL or an imprecise comparison might confuse. The letter "é" occurs as one character and as two.
ALIKE = (
    "a",
    "A",
    "a/b",
    "a%2Fb",
    "a%252Fb",
    "a b",
    "a+b",
    "a%20b",
    "%",
    "%25",
    ".",
    "..",
    "../a",
    "a/",
    "/a",
    "\u00e9",
    "e\u0301",
    "a\0",
    "a\n",
    "room/a",
    "direct/a/b",
    "live/a",
    "\U0001f40c",
    "*",
    "a:b",
    "a,b",
    "'--",
    "{a}",
)
NAMES = st.sampled_from(ALIKE) | st.text(min_size=1, max_size=100)


@given(name=NAMES, user=NAMES)
def test_the_wire_name_and_the_stream_of_a_room_identify_it(name: str, user: str) -> None:
    place = room(name)
    assert parse_place(place.wire_name(user), user) == place
    assert place_of_stream(place.stream) == place
    assert (place.room, place.users, place.wire_name(user)) == (name, (), f"room/{name}")


@given(one=NAMES, other=NAMES)
@example(one="a", other="a")
def test_a_conversation_is_the_same_for_both_users(one: str, other: str) -> None:
    place = direct(one, other)
    assert place == direct(other, one)
    assert set(place.users) == {one, other}
    assert (place.wire_name(one), place.wire_name(other)) == (f"direct/{other}", f"direct/{one}")
    assert (
        parse_place(place.wire_name(one), one)
        == parse_place(place.wire_name(other), other)
        == place_of_stream(place.stream)
        == place
    )


@given(a=NAMES, b=NAMES, c=NAMES, d=NAMES)
def test_places_with_different_names_have_different_streams(a: str, b: str, c: str, d: str) -> None:
    assert (direct(a, b).stream == direct(c, d).stream) is ({a, b} == {c, d})
    for make in (room, lambda name: Place(room(name).live), lambda name: Place(user_stream(name))):
        assert (make(a).stream == make(b).stream) is (a == b)
    kinds = (room(a).stream, direct(a, b).stream, room(a).live, user_stream(a))
    others = (room(c).stream, direct(c, d).stream, room(c).live, user_stream(c))
    for number, stream in enumerate(kinds):
        assert stream not in others[:number] + others[number + 1 :]


def test_names_that_look_alike_have_different_streams() -> None:
    assert len({room(name).stream for name in ALIKE}) == len(ALIKE)
    pairs = {frozenset({one, other}) for one in ALIKE for other in ALIKE}
    assert len({direct(min(pair), max(pair)).stream for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "stream", ["", "chat", "chat/live/a", "chat/user/a", "chat/everybody", "session/a/b", "room/a"]
)
def test_a_stream_of_no_place_gives_none(stream: str) -> None:
    assert place_of_stream(stream) is None


@pytest.mark.parametrize(
    "wire", ["", "room", "room/", "direct/", "chat/room/a", "Room/a", "live/a", f"room/{'a' * 201}"]
)
def test_an_invalid_wire_name_is_refused(wire: str) -> None:
    with pytest.raises(WorkError, match="room/NAME or direct/NAME"):
        parse_place(wire, "alice")


@given(wire=st.text(), offset=st.integers(1), text=st.text())
def test_a_message_on_the_wire_is_the_stored_event_with_its_place(wire: str, offset: int, text: str) -> None:
    event = Event(offset, json.dumps({"from": "a", "text": text}, separators=(",", ":")))
    assert json.loads(as_message(wire, event)) == {
        "type": "message",
        "stream": wire,
        "offset": offset,
        "from": "a",
        "text": text,
    }


def chat_on(store: EventStore) -> Chat:
    return Chat(store.broker, store.marks, store.presence, str.encode)


@every_kind
async def test_a_message_is_identified_by_place_sender_and_id_together(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        chat, harbour = chat_on(store), room("harbour")
        assert [await chat.post(harbour, "a", "x", [], "b/c") for _ in range(2)] == [1, 1]
        assert await chat.post(harbour, "a/b", "x", [], "c") == 2
        assert await chat.post(harbour, "a%2Fb", "x", [], "c") == 3
        assert await chat.post(room("vault"), "a", "x", [], "b/c") == 1
        assert [await chat.post(harbour, "a", "x", [], None) for _ in range(2)] == [4, 5]


@every_kind
async def test_a_direct_message_is_unread_for_the_receiver_and_read_for_the_sender(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        chat, place = chat_on(store), direct("alice", "bob")
        for number in range(3):
            await chat.post(place, "alice", f"{number}", [], None)
        assert await chat.marks("bob") == {place: Mark(0, 3)}
        assert await chat.marks("alice") == {place: Mark(3, 3)}
        await chat.read(place, "bob", 2)
        await chat.post(place, "bob", "answer", [], None)
        assert (await chat.marks("bob"))[place].unread == 0
        assert (await chat.marks("alice"))[place].unread == 1
        assert await chat.marks("carol") == {}


@every_kind
@pytest.mark.parametrize(
    ("before", "limit", "expected"),
    [(None, 3, [8, 9, 10]), (None, 100, [*range(1, 11)]), (1, 5, []), (2, 5, [1]), (8, 3, [5, 6, 7]), (99, 2, [9, 10])],
)
async def test_history_returns_the_messages_before_an_offset(
    tmp_path: Path, kind: str, before: int | None, limit: int, expected: list[int]
) -> None:
    async with opened(kind, tmp_path) as store:
        chat, harbour = chat_on(store), room("harbour")
        assert await chat.history(harbour, before, limit) == []
        for number in range(10):
            await chat.post(harbour, "alice", f"{number}", [], None)
        assert [event.offset for event in await chat.history(harbour, before, limit)] == expected


@every_kind
async def test_a_page_of_history_has_its_epoch_and_the_newest_messages_that_fit(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        chat, place = chat_on(store), direct("alice", "bob")
        for number in range(10):
            await chat.post(place, "alice", f"{number}", [], None)
        epoch = (await store.broker.position(place.stream)).epoch
        two = 2 * len(as_message("direct/bob", (await chat.history(place, None, 1))[0]))
        for before, limit, bytes, expected in (
            (None, 100, 10**6, [*range(1, 11)]),
            (None, 3, 10**6, [8, 9, 10]),
            (None, 100, 1, [10]),
            (4, 100, 1, [3]),
            (1, 100, 10**6, []),
            (None, 100, two, [9, 10]),
        ):
            page = json.loads(await chat.page(place, "direct/bob", before, limit, bytes))
            assert [message["offset"] for message in page.pop("messages")] == expected
            more = bool(expected) and expected[0] > 1
            assert page == {"type": "history", "stream": "direct/bob", "epoch": epoch, "more": more}


async def test_a_message_that_could_not_be_stored_is_stored_once_when_repeated(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        chat, place = chat_on(store), direct("alice", "bob")
        assert await chat.post(place, "alice", "one", [], "1") == 1
        with full_disk():
            for _ in range(3):
                with pytest.raises(OSError, match="cannot be written"):
                    await chat.post(place, "alice", "two", [], "2")
        assert [await chat.post(place, "alice", "two", [], "2") for _ in range(2)] == [2, 2]
        assert (await chat.marks("bob"))[place].unread == 2


async def test_marks_can_be_set_while_the_wal_is_copied_into_the_file(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        chat, number = chat_on(store), 0

        async def post() -> None:
            for _ in range(150):  # SQLite copies its write-ahead log into the file about three times during this loop.
                await chat.post(room("harbour"), "alice", "x" * 100_000, [], None)

        posting = asyncio.create_task(post())
        while not posting.done():
            number += 1
            await chat.read(direct("bob", "alice"), "bob", number)
            await asyncio.sleep(0)
        await posting


async def test_an_empty_room_that_was_entered_is_recovered_after_a_restart(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as store:
        before = await store.broker.position(room("harbour").stream)
        await store.marks.set(room("harbour").stream, "alice", before.offset)
    async with opened("sqlite", tmp_path) as store:
        await chat_on(store).post(room("harbour"), "bob", "hello", [], None)
        assert await store.broker.recovers(room("harbour").stream, before.epoch, before.offset)


@every_kind
async def test_messages_sent_while_a_user_connects_are_counted(tmp_path: Path, kind: str) -> None:
    """If the Inbox counted before it subscribes, a message in between would not be counted until the next message."""
    async with opened(kind, tmp_path) as store:
        chat, rooms = chat_on(store), [room(f"{number}") for number in range(50)]
        for place in rooms:
            await store.marks.set(place.stream, "bob", 0)
        unread: dict[str, int] = {}
        posting: list[asyncio.Task[int]] = []

        def send(message: dict[str, Any]) -> None:
            unread.update(message["streams"])
            if not posting:
                posting.extend(asyncio.create_task(chat.post(place, "alice", "x", [], None)) for place in rooms)

        async def deliver(text: str) -> None:
            raise AssertionError("bob received a message that no user sent to him")

        inbox = Inbox(chat, "bob", "phone", send, deliver, lambda stream: None, set())
        await inbox.begin(lambda name: True, 100)
        running = asyncio.create_task(inbox.run())
        try:
            await until(lambda: unread == {f"room/{place.room}": 1 for place in rooms})
        finally:
            running.cancel()
            inbox.close()
            await chat.settle()


class Late(Chat):
    """A Chat that reads the marks, and then waits for ``go`` before it returns them."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.marks_read, self.go = asyncio.Event(), asyncio.Event()

    async def marks(self, user: str) -> dict[Place, Mark]:
        found = await super().marks(user)
        self.marks_read.set()
        await self.go.wait()
        return found


@every_kind
async def test_an_unread_count_is_never_older_than_a_message_sent_before_it(tmp_path: Path, kind: str) -> None:
    """If an older count were sent after a message, a client that has already counted this message would return to the
    older count. No later count would correct the client.
    """
    async with opened(kind, tmp_path) as store:
        chat, harbour, listener = (
            Late(store.broker, store.marks, store.presence, str.encode),
            room("harbour"),
            Listener(),
        )
        await store.marks.set(harbour.stream, "bob", 0)
        fanout = await chat.fanout.open(harbour.stream, harbour.as_message, listener)
        fanout.members[listener] = fanout.offset
        unread: list[tuple[int, dict[str, int]]] = []

        async def deliver(text: str) -> None:
            raise AssertionError("bob received a message that no user sent to him")

        def send(message: dict[str, Any]) -> None:
            unread.append((len(listener.received), message["streams"]))

        inbox = Inbox(chat, "bob", "phone", send, deliver, lambda stream: None, {"harbour"})
        chat.go.set()
        await inbox.begin(lambda name: True, 100)
        running = asyncio.create_task(inbox.run())
        try:
            for event in (chat.go, chat.marks_read):
                event.clear()
            unread.clear()
            await chat.post(harbour, "alice", "one", [], None)
            await chat.read(harbour, "bob", 1)
            await until(chat.marks_read.is_set)
            await chat.post(harbour, "alice", "two", [], None)
            await until(lambda: len(listener.received) == 2)
            chat.go.set()
            await until(lambda: unread)
            assert unread[0] == (2, {"room/harbour": 1})
        finally:
            running.cancel()
            inbox.close()
            chat.fanout.leave(fanout, listener)
            await chat.settle()


async def test_a_reader_too_slow_for_the_retention_of_a_room_gets_an_error(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, keep=300) as store:
        chat, harbour, listener = chat_on(store), room("harbour"), Listener()
        await fill(store.broker, harbour.stream, 350, durable=True)
        fanout = await chat.fanout.open(harbour.stream, lambda event: event.data, listener)
        with pytest.raises(OSError, match="no longer retained"):
            assert [text async for text in fanout.replay(0)] == []
        chat.fanout.leave(fanout, listener)
