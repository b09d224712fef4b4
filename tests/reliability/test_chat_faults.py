"""Chat while its file cannot be written, and while the clock jumps.

The server answers each message with an error that names its client_id, keeps the sockets open, and continues when the
file can be written again. No acknowledged message is lost or doubled, and offsets alone decide the order. The tests
were seen to fail without the ``except OSError`` around sending, when a failed join is not undone, and when a post stops
with its connection.
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

# Replaces time.time() of the server. The file holds by how many seconds it is ahead or behind.
CLOCK = """
import time
from pathlib import Path
real, ahead = time.time, Path(__file__).with_name("ahead")
time.time = lambda: real() + float(ahead.read_text())
"""


def jump_to(ahead: Path, seconds: int) -> None:
    """Writes the file in one step, because the server may read it at any moment."""
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
    """Another program holds a write transaction."""
    with closing(sqlite3.connect(disk / "sluice.db", GUARD, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


async def refused_for_now(client: Chatter, text: str, **where: str) -> None:
    await client.send("send", client_id=text, text=text, **where)
    error = await client.wait_for("error", "ack", client_id=text)
    assert (error["type"], error.get("code"), error.get("temporary")) == ("error", "internal", True)
    assert "/" not in error["message"], "a client need not know our folders"


@pytest.mark.parametrize("fault", [full, locked])
async def test_while_nothing_can_be_stored_it_is_said_by_client_id_and_then_it_goes_on(
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
            # Requests that write nothing still work.
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


async def test_who_could_not_join_is_not_present_and_hears_nothing_of_the_room(disk: Path, start: Start) -> None:
    server: Server = start(events=f"sqlite:{disk}/sluice.db")
    async with await Chatter.enter(server, "bob") as bob:
        await bob.join("harbour")
    async with await Chatter.enter(server, "alice") as alice, await Chatter.enter(server, "bob") as bob:
        await alice.join("harbour")
        with locked(disk):
            await bob.send("join", room="harbour")
            assert (await bob.wait_for("error"))["temporary"]
        await alice.send("presence", room="harbour")
        answer = await alice.wait_for("presence", room="harbour")
        while "present" not in answer:
            answer = await alice.wait_for("presence", room="harbour")
        assert answer["present"] == ["alice"]
        await alice.send("typing", room="harbour")
        await alice.say("to bob", to="bob")
        assert (await bob.wait_for("typing", "message"))["type"] == "message"


async def test_a_clock_that_jumps_changes_no_order(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with messages sorted by ``at``."""
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


async def test_what_was_said_last_before_a_connection_was_lost_reaches_who_is_there(start: Start) -> None:
    """The last message is either stored or not. It must not happen that it is stored, but delivered only with the next
    message. The connection may be lost at any moment.
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
                    received = bob.wait_for("message", stream=f"direct/{name}")
                    assert (await asyncio.wait_for(received, GUARD))["offset"] == 1
