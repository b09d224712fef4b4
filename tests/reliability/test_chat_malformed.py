"""A malformed message to /ws/chat gets exactly one error. The socket stays open, and another user in another room is
not affected.

Hypothesis creates the messages from valid ones by breaking one thing, as in test_malformed.py. Each run has the same
messages. These tests fail when Message does not have ``extra="forbid"``, when Name has no pattern, or when a stream
name may contain a lone surrogate.
"""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from handlers.chat import ChatWebSocket
from tests.reliability.test_malformed import JUNK, NO_NUMBER, NO_STRING, SHORT, SURROGATE
from tests.support.chats import Chatter
from tests.support.running import Server
from works.errors import CODES

pytestmark = pytest.mark.chaos

numbers = count(1)

GOOD: dict[str, dict[str, Any]] = {
    "join": {"room": "other", "after": 0, "epoch": "x"},
    "leave": {"room": "nowhere"},
    "typing": {"room": "nowhere"},
    "send": {"room": "quiet", "client_id": "1", "text": "x", "attachments": []},
    "read": {"stream": "room/quiet", "offset": 0},
    "history": {"stream": "room/quiet", "before": 1, "limit": 1},
    "presence": {"room": "quiet"},
    "broadcast": {"text": "x"},
    "token": {"token": "x"},
}
REQUIRED = {
    "join": ["room"],
    "leave": ["room"],
    "typing": ["room"],
    "send": ["room", "client_id", "text"],
    "read": ["stream", "offset"],
    "history": ["stream"],
    "presence": ["room"],
    "broadcast": ["text"],
}
NO_TEXT = NO_STRING.filter(lambda value: value is not None)  # a lone surrogate is valid in a text
NO_ROOM = NO_TEXT | SURROGATE
NO_NAME = NO_STRING | SURROGATE | st.sampled_from(["", "a/b", "a b", " ", "a\n", "x" * 101, "\u2003", "room/quiet"])
NO_STREAM = NO_STRING | SURROGATE | st.sampled_from(["", "room", "room/", "direct/", "quiet", "chat/room/quiet"])
NO_STREAM |= st.sampled_from(["room/nowhere", "room/" + "x" * 201, "direct/" + "x" * 201, "room//quiet", "ROOM/quiet"])
NO_OFFSET = NO_NUMBER.filter(lambda value: value is not None) | st.integers(max_value=-1) | st.just(0.5)
# Invalid values for each member of a message.
NEVER: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "join": {"room": NO_NAME, "after": NO_OFFSET, "epoch": NO_TEXT},
    "leave": {"room": NO_NAME},
    "typing": {"room": NO_STRING | SURROGATE | st.text(), "to": st.just("both")},
    "send": {
        "room": NO_STRING | SURROGATE | st.text().filter(lambda text: text != "quiet"),
        "to": NO_ROOM | st.sampled_from(["", "both", "x" * 201]),
        "client_id": NO_STRING | SURROGATE | st.sampled_from(["", "x" * 101]),
        "text": NO_TEXT | st.sampled_from(["", " \n", "x" * 4001]),
        "attachments": st.integers() | st.text(min_size=1) | st.lists(st.text(), min_size=1, max_size=12),
    },
    "read": {"stream": NO_STREAM, "offset": NO_OFFSET},
    "history": {
        "stream": NO_STREAM,
        "before": NO_OFFSET | st.just(0),
        "limit": NO_OFFSET | st.sampled_from([0, 101, 10**400]),
    },
    "presence": {"room": NO_NAME | st.just("nowhere")},
    "broadcast": {"text": NO_STRING | SURROGATE | st.sampled_from(["", "x" * 4001])},
    "token": {"token": NO_STRING | st.text(st.characters(), max_size=9000)},
}


def test_every_message_type_has_malformed_examples() -> None:
    assert GOOD.keys() == NEVER.keys() == {"token", *ChatWebSocket.accepts}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("rooms"), connections_per_user=100, chat_rate=1000)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    assert "Traceback" not in "".join(running.log)
    running.stop()


@st.composite
def members(draw: st.DrawFn) -> dict[str, Any]:
    """A message that is an object with one error."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    message = {"type": kind} | GOOD[kind]
    match draw(st.sampled_from(["changed", "missing", "added", "invalid type"])):
        case "missing" if kind in REQUIRED:
            del message[draw(st.sampled_from(REQUIRED[kind]))]
        case "added":
            message[draw(st.text(st.characters(), max_size=600).map(lambda text: f"no {text}"))] = draw(JUNK)
        case "invalid type":
            message["type"] = draw(JUNK)
        case _:
            member = draw(st.sampled_from(sorted(NEVER[kind])))
            message[member] = draw(NEVER[kind][member])
    return message


@st.composite
def malformed(draw: st.DrawFn) -> str | bytes:
    text = json.dumps(draw(members()))
    match draw(st.sampled_from(["text", "text", "text", "truncated", "not an object", "bytes"])):
        case "truncated":
            return text[: draw(st.integers(0, len(text) - 1))]
        case "not an object":
            return json.dumps(draw(JUNK.filter(lambda value: not isinstance(value, dict))))
        case "bytes":
            return draw(st.binary(max_size=40))
        case _:
            return text


async def has_one_answer(server: Server, message: str | bytes) -> None:
    """Checks that the message gets one error with a known code, and that both connections still work."""
    room = f"theirs-{next(numbers)}"
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("quiet")
        await bob.join(room)
        await alice.socket.send(message)
        await bob.send("send", room=room, client_id="1", text="theirs")
        await alice.send("history", stream="direct/alice", limit=1)
        errors = []
        while (answer := await alice.receive())["type"] != "history":
            if answer["type"] == "error":
                errors.append(answer)
            assert answer["type"] in ("error", "presence", "unread"), answer
        if not errors:  # attachments are looked up in the background, so the error may arrive later
            errors.append(await alice.wait_for("error"))
        assert len(errors) == 1, errors
        assert errors[0]["code"] in CODES
        assert isinstance(errors[0]["message"], str)
        assert "temporary" not in errors[0] or not errors[0]["temporary"]
        assert await bob.hear(1) == [(1, "theirs")]
        await alice.join("still-there")


@pytest.mark.timeout(900)
@settings(SHORT, max_examples=200)
@given(message=malformed())
@example(message='{"type": "send", "to": "\\ud800", "client_id": "1", "text": "x"}')
@example(message='{"type": "read", "stream": "direct/\\ud800", "offset": 1}')
@example(message='{"type": "join", "room": "a\\u0000b/c"}')
@example(message='{"type": "send", "room": "quiet", "client_id": "1", "text": "%s"}' % ("x" * 1_000_000))
async def test_a_malformed_message_gets_one_error_and_the_room_still_works(rooms: Server, message: str | bytes) -> None:
    await has_one_answer(rooms, message)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(SHORT, max_examples=1000)
@given(message=malformed())
async def test_a_thousand_malformed_chat_messages_get_one_error_each(rooms: Server, message: str | bytes) -> None:
    await has_one_answer(rooms, message)
