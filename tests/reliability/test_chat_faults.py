"""Chat while its database file cannot be written, and while the clock jumps.

Each affected client gets an error with its client_id on a socket that stays open. Afterwards chat continues: no
acknowledged message is lost or stored twice, and only the offsets decide the order.

These tests fail when _store does not catch OSError (handlers/chat.py), when a failed join does not leave the room, or
when a message is not stored because its connection has closed.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.reliability.test_disks import disk, faults, fill
from tests.support.chats import Chatter
from tests.support.running import GUARD, Server, Start, until

pytestmark = pytest.mark.chaos

__all__ = ["disk"]

# A module that shifts time.time() of the server by the number of seconds in a file.
CLOCK = """
import time
from pathlib import Path
real, ahead = time.time, Path(__file__).with_name("ahead")
time.time = lambda: real() + float(ahead.read_text())
"""


def jump_to(ahead: Path, seconds: int) -> None:
    """Sets the shift. The file is replaced in one step, because the server may read it at any moment."""
    new = ahead.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(ahead)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    fill(disk)
    yield
    (disk / "filler").unlink()


@contextmanager
def locked(disk: Path) -> Iterator[None]:
    """Opens a write transaction, as another program could do, and does not end it inside the block."""
    with closing(sqlite3.connect(disk / "sluice.db", GUARD, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


async def refused_for_now(client: Chatter, text: str, **where: str) -> None:
    await client.send("send", client_id=text, text=text, **where)
    error = await client.wait_for("error", "ack", client_id=text)
    assert (error["type"], error.get("code"), error.get("temporary")) == ("error", "internal", True)
    assert "/" not in error["message"], "the message must not contain a path of the server"


@pytest.mark.parametrize("fault", [full, locked])
async def test_while_nothing_can_be_stored_each_message_gets_an_error_and_later_chat_continues(
    disk: Path, start: Start, fault: Callable[[Path], "contextmanager[None]"]
) -> None:
    settings = {"events": f"sqlite:{disk}/sluice.db", "log_level": "debug"}
    server: Server = start(**settings)
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("harbour")
        await bob.join("harbour")
        assert await alice.say("before", room="harbour") == 1
        assert await alice.say("to bob before", to="bob") == 1
        with fault(disk):
            for number in range(4):
                await refused_for_now(alice, f"r{number}", room="harbour")
                await refused_for_now(alice, f"d{number}", to="bob")
            await bob.send("read", stream="direct/alice", offset=1)
            assert (await bob.wait_for("error"))["temporary"]
            await bob.send("join", room="vault")
            assert (await bob.wait_for("error"))["temporary"]
            assert "events" in str(faults(server))
            # Requests that do not write to the file still work.
            await bob.send("history", stream="room/harbour")
            assert [message["text"] for message in (await bob.wait_for("history"))["messages"]] == ["before"]
        await until(lambda: faults(server) == [])
        for number in range(4):
            assert await alice.say(f"r{number}", room="harbour") == number + 2
            assert await alice.say(f"d{number}", to="bob") == number + 2
        await bob.join("vault")
        await bob.send("history", stream="room/harbour")
        texts = [message["text"] for message in (await bob.wait_for("history"))["messages"]]
        assert texts == ["before", *(f"r{number}" for number in range(4))]
    assert "Traceback" not in "".join(server.log)
    assert server.stop() == 0
    async with await Chatter.enter(start(**settings), "bob") as again:
        assert again.unread == {"direct/alice": 5, "room/harbour": 5, "room/vault": 0}
        assert [text for _, text in await again.hear(5)] == ["to bob before", *(f"d{number}" for number in range(4))]


async def test_a_user_whose_join_failed_is_not_present_and_receives_nothing_of_the_room(
    disk: Path, start: Start
) -> None:
    server: Server = start(events=f"sqlite:{disk}/sluice.db")
    async with await Chatter.enter(server, "bob") as bob:
        await bob.join("harbour")
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("harbour")
        with locked(disk):
            await bob.send("join", room="harbour")
            assert (await bob.wait_for("error"))["temporary"]
        assert await alice.present("harbour") == ["alice"]
        await alice.send("typing", room="harbour")
        await alice.say("to bob", to="bob")
        assert (await bob.wait_for("typing", "message"))["type"] == "message"


async def test_a_clock_that_jumps_does_not_change_the_order_of_messages(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This test fails when messages are sorted by ``at``."""
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    ahead = tmp_path / "ahead"
    jump_to(ahead, 0)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server: Server = start(unforked=True)
    jumps = [0, 86_400, -86_400, 3600, -7 * 86_400, 30 * 86_400, 0]
    expected = [(number, f"{jump} {number}") for number, jump in enumerate(jumps, 1)]
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("harbour")
        await bob.join("harbour")
        for number, jump in enumerate(jumps, 1):
            jump_to(ahead, jump)
            assert await alice.say(f"{jump} {number}", room="harbour") == number
            assert await alice.say(f"{jump} {number}", to="carol") == number
        assert await bob.hear(len(jumps)) == expected
        await bob.send("history", stream="room/harbour")
        messages = (await bob.wait_for("history"))["messages"]
        assert [(message["offset"], message["text"]) for message in messages] == expected
        assert [message["at"] for message in messages] != sorted(message["at"] for message in messages)
    async with await Chatter.enter(server, "carol") as carol:
        assert carol.unread == {"direct/alice": len(jumps)}
        assert await carol.hear(len(jumps)) == expected


async def test_a_stored_message_reaches_its_receiver_after_the_sender_has_lost_the_connection(start: Start) -> None:
    """The connection is lost at 30 different moments after a message was sent.

    Each message may be stored or not. A stored message must reach the receiver without waiting for the next message.
    """
    server: Server = start(connections_per_user=100)
    async with await Chatter.enter(server, "bob") as bob:
        for number in range(30):
            name = f"alice {number}"
            alice = await Chatter.enter(server, name)
            await alice.send("send", to="bob", client_id="1", text="goodbye")
            await asyncio.sleep(0.0003 * (number % 10))
            alice.abort()
            async with await Chatter.enter(server, name) as again:
                await again.send("history", stream="direct/bob")
                if (await again.wait_for("history"))["messages"]:
                    message = bob.wait_for("message", stream=f"direct/{name}")
                    assert (await asyncio.wait_for(message, GUARD))["offset"] == 1
