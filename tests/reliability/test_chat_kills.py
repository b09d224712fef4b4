"""A server is killed many times while users chat. It must not lose an acknowledged message, and must not send a message
twice.

Senders repeat a message without acknowledgement, with the same client_id. Readers reconnect with the last offset and
the epoch that they know. At the end, each message is stored once at its acknowledged offset, each reader has received
it once and in order, and the unread counts are right. Measured: 200 kills, 0 messages lost, 0 received twice.

This test fails with any of these defects: append acknowledges before the write (broker.append in works/events/sqlite
without ``await done``: messages are lost); Chat.post ignores the client_id (id=None: messages are stored twice); a
fanout starts its replay one event too early or too late (repetition or gap); Chat.post does not set the marks first.
"""

import asyncio
import random
import signal
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import websockets

from tests.support.chats import Chatter
from tests.support.running import GUARD, Server, Start, until

pytestmark = pytest.mark.chaos

Heard = list[tuple[int, str]]

ROOMS = ("harbour", "vault")
SENDERS = ("alice", "carol", "dave")
# Bob is connected all the time and reads. Erin connects at the end.
RECEIVERS = ("bob", "erin")
# Number of messages of a sender that wait for an acknowledgement.
WINDOW = 8
# Exceptions that a client can get at any point when its server is killed.
GONE = (websockets.WebSocketException, OSError, EOFError)


class Sender:
    """Sends numbered texts to the rooms and the receivers by turns. The text is also the client_id."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.more = True
        self.waiting: dict[str, dict[str, str]] = {}
        self.acknowledged: dict[str, Heard] = {}
        places = [{"room": room} for room in ROOMS] + [{"to": user} for user in RECEIVERS]
        self._next = ((f"{name} {number}", places[number % len(places)]) for number in count())

    async def run(self, server: Server) -> None:
        """Runs until the server is gone, or until all messages are acknowledged and ``more`` is false."""
        async with await Chatter.enter(server, self.name) as client:
            for room in ROOMS:
                await client.join(room)
            for text, place in list(self.waiting.items()):
                await client.send("send", client_id=text, text=text, **place)
            while self.waiting or self.more:
                while self.more and len(self.waiting) < WINDOW:
                    text, place = next(self._next)
                    self.waiting[text] = place
                    await client.send("send", client_id=text, text=text, **place)
                answer = await client.wait_for("ack", "error")
                assert answer["type"] == "ack", answer
                text = answer["client_id"]
                (where,) = self.waiting.pop(text).values()
                self.acknowledged.setdefault(where, []).append((answer["offset"], text))


class Reader:
    """Joins all rooms and reads them from the first message. After a reconnect it resumes from its last offset."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.heard: dict[str, Heard] = {f"room/{room}": [] for room in ROOMS}
        self.epochs: dict[str, str] = {}

    async def run(self, server: Server) -> None:
        async with await Chatter.enter(server, self.name) as client:
            for room in ROOMS:
                heard = self.heard[f"room/{room}"]
                known = {"epoch": self.epochs[room]} if heard else {}
                await client.send("join", room=room, after=len(heard), **known)
            while True:
                self.take(await client.receive())

    def take(self, message: dict[str, Any]) -> None:
        assert message["type"] != "error", message
        if message["type"] == "joined":
            assert message["recovered"], message
            self.epochs[message["room"]] = message["epoch"]
        elif message["type"] == "message" and message["stream"] in self.heard:
            heard = self.heard[message["stream"]]
            assert message["offset"] == len(heard) + 1, (self.name, message, heard[-3:])
            heard.append((message["offset"], message["text"]))


class Receiver:
    """Receives messages in conversations, and sometimes marks them as read."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name, self.chance = name, chance
        self.heard: dict[str, dict[int, str]] = {}
        # the offsets sent as read; ``sure`` has those that the server has certainly stored
        self.asked: dict[str, int] = {}
        self.sure: dict[str, int] = {}

    async def run(self, server: Server) -> None:
        read = dict(self.sure)
        async with await Chatter.enter(server, self.name) as client:
            for stream, offset in self.asked.items():
                if self.sure.get(stream) != offset:
                    await self.read(client, stream, offset)  # the server may have been killed before it stored the mark
            last: dict[str, int] = {}
            while True:
                message = await client.receive()
                assert message["type"] != "error", message
                if message["type"] == "message":
                    stream, offset = message["stream"], message["offset"]
                    self.take(stream, offset, message["text"], last.get(stream), read.get(stream, 0))
                    last[stream] = offset
                    if self.chance.random() < 0.1:
                        await self.read(client, stream, offset)
                elif message["type"] == "history":
                    stream = message["stream"]
                    self.sure[stream] = max(self.sure.get(stream, 0), message["messages"][0]["offset"])

    def take(self, stream: str, offset: int, text: str, last: int | None, read: int) -> None:
        """Checks the offset of a message.

        The first message of a connection must follow the read position. Each later message must follow the previous
        one.
        """
        if last is None:
            assert read < offset <= self.asked.get(stream, 0) + 1, (stream, offset)
        else:
            assert offset == last + 1, (stream, offset, last)
        assert self.heard.setdefault(stream, {}).setdefault(offset, text) == text

    async def read(self, client: Chatter, stream: str, offset: int) -> None:
        """Marks messages as read. Requests the history afterwards, because the server answers it only after it has
        stored the mark.
        """
        self.asked[stream] = max(self.asked.get(stream, 0), offset)
        await client.send("read", stream=stream, offset=offset)
        await client.send("history", stream=stream, before=offset + 1, limit=1)


async def kill_during(server: Server, people: list[Any], acknowledged: Callable[[], int], more: int) -> None:
    """Runs all clients until ``more`` further messages are acknowledged, and then kills the server."""
    tasks = [asyncio.create_task(person.run(server)) for person in people]
    enough = acknowledged() + more
    await until(lambda: acknowledged() >= enough or any(task.done() for task in tasks))
    server.stop(signal.SIGKILL)
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(ended, GONE):
            raise ended or AssertionError("a client stopped before the server was killed")


async def run_with_kills(start: Start, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    senders = [Sender(name) for name in SENDERS]
    readers = [Reader("grace"), Reader("heidi")]
    bob = Receiver("bob", chance)
    server = start(chat_rate=100_000, session_events=1_000_000)
    port = server.port
    # frank joins each room once and stays offline until the end
    async with await Chatter.enter(server, "frank") as frank:
        for room in ROOMS:
            assert (await frank.join(room))["offset"] == 0

    def acknowledged() -> int:
        return sum(len(heard) for sender in senders for heard in sender.acknowledged.values())

    for number in range(kills):
        more = chance.choice([0, 1, chance.randrange(30), chance.randrange(200)])
        await kill_during(server, [*senders, *readers, bob], acknowledged, more + (number == 0))
        server = start(port=port, chat_rate=100_000, session_events=1_000_000)

    listening = [asyncio.create_task(person.run(server)) for person in (*readers, bob)]
    for sender in senders:
        sender.more = False
    await asyncio.wait_for(asyncio.gather(*(sender.run(server) for sender in senders)), 2 * GUARD)
    await check_rooms(senders, readers)
    await check_conversations(server, senders, bob)
    await check_unread_counts(server, senders, bob)
    print(f"{kills} kills, {acknowledged()} acknowledged, 0 lost, 0 doubled")
    for task in listening:
        task.cancel()
    for ended in await asyncio.gather(*listening, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), ended


async def check_rooms(senders: list[Sender], readers: list[Reader]) -> None:
    for room in ROOMS:
        said = sorted(pair for sender in senders for pair in sender.acknowledged[room])
        assert [offset for offset, _ in said] == list(range(1, len(said) + 1)), (
            "each message must have a different offset"
        )
        for reader in readers:
            heard = reader.heard[f"room/{room}"]
            await until(lambda heard=heard, said=said: len(heard) >= len(said))
            assert heard == said
        for sender in senders:
            own = [text for _, text in said if text.startswith(f"{sender.name} ")]
            assert own == sorted(own, key=lambda text: int(text.split()[1])), (
                "the order must be that in which the sender sent them"
            )


async def check_conversations(server: Server, senders: list[Sender], bob: Receiver) -> None:
    async with await Chatter.enter(server, "erin") as erin:
        said = {f"direct/{sender.name}": sorted(sender.acknowledged["erin"]) for sender in senders}
        assert erin.unread == {stream: len(pairs) for stream, pairs in said.items()}
        heard: dict[str, Heard] = {stream: [] for stream in said}
        for _ in range(sum(map(len, said.values()))):
            message = await erin.wait_for("message")
            heard[message["stream"]].append((message["offset"], message["text"]))
        assert heard == said
    for sender in senders:
        pairs = sorted(sender.acknowledged["bob"])
        assert [offset for offset, _ in pairs] == list(range(1, len(pairs) + 1))
        of_bob = bob.heard[f"direct/{sender.name}"]
        await until(lambda of_bob=of_bob, pairs=pairs: len(of_bob) >= len(pairs))
        assert sorted(of_bob.items()) == pairs


async def check_unread_counts(server: Server, senders: list[Sender], bob: Receiver) -> None:
    """Checks the unread counts of a user who has sent marks, and of a user who has only joined the rooms."""
    await until(lambda: bob.sure == bob.asked)
    async with await Chatter.enter(server, "bob") as again:
        heads = {f"direct/{sender.name}": len(sender.acknowledged["bob"]) for sender in senders}
        counted = {stream: unread for stream, unread in again.unread.items() if stream.startswith("direct/")}
        assert counted == {stream: head - bob.sure.get(stream, 0) for stream, head in heads.items()}
    async with await Chatter.enter(server, "frank") as frank:
        said = {room: sum(len(sender.acknowledged[room]) for sender in senders) for room in ROOMS}
        assert frank.unread == {f"room/{room}": number for room, number in said.items()}


@pytest.mark.timeout(900)
async def test_in_five_kills_no_acknowledged_message_is_lost_or_stored_twice(start: Start) -> None:
    await run_with_kills(start, 5, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_in_two_hundred_kills_no_acknowledged_message_is_lost_or_stored_twice(start: Start) -> None:
    await run_with_kills(start, 200, seed=2)
