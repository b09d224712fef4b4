"""A simple model of chat, and the comparison of the server with it.

The model stores the texts of each place, the marks of each user, and for each connection the offset after which it
receives messages. Some steps send the next request before the server has answered the previous one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import websockets

from tests.support.chats import Chatter
from tests.support.running import GUARD, Server, until

# The name of a room, or the two users of a conversation.
Place = str | frozenset[str]
Texts = list[tuple[int, str]]

numbers = count()


class Device:
    """A browser of a user, connected or not.

    ``hears`` stores, for each place, the offset after which the server sends messages to this device.
    """

    def __init__(self, user: str) -> None:
        self.user = user
        self.client: Chatter | None = None
        self.rooms: dict[str, str] = {}  # the joined rooms, with their epochs
        # the last offset and the epoch of each room at the time of the disconnect
        self.known: dict[str, tuple[int, str]] = {}
        self._reset()

    def _reset(self) -> None:
        self.hears: dict[Place, int] = {}
        self.heard: dict[Place, Texts] = {}
        # The server may have stored the last message before the disconnect. Then it sends the messages after this
        # offset instead of those after the offset in ``hears``.
        self.doubtful: dict[Place, int] = {}
        self.watches: set[str] = set()
        self.unread: dict[Place, int] = {}
        self.answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    def wire(self, place: Place) -> str:
        if isinstance(place, str):
            return f"room/{place}"
        return f"direct/{next(iter(place - {self.user}), self.user)}"

    def place(self, wire: str) -> Place:
        kind, _, name = wire.partition("/")
        return name if kind == "room" else frozenset({self.user, name})

    def places(self, counted: dict[str, int]) -> dict[Place, int]:
        return {self.place(wire): unread for wire, unread in counted.items()}

    async def connect(self, server: Server) -> None:
        self._reset()
        self.client = await Chatter.enter(server, self.user)
        self.unread = self.places(self.client.unread)
        self._listening = asyncio.create_task(self._listen(self.client))

    async def _listen(self, client: Chatter) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                message = await client.receive(2 * GUARD)
                match message["type"]:
                    case "message":
                        heard = self.heard.setdefault(self.place(message["stream"]), [])
                        heard.append((message["offset"], message["text"]))
                    case "unread":
                        self.unread |= self.places(message["streams"])
                    case "presence" if "present" not in message:
                        pass
                    case type:
                        if type == "joined":
                            self.heard.pop(message["room"], None)
                        self.answers.put_nowait(message)

    async def ask(self, type: str, **members: Any) -> None:
        assert self.client
        await self.client.send(type, **members)

    async def answer(self, *types: str) -> dict[str, Any]:
        answer = await asyncio.wait_for(self.answers.get(), GUARD)
        assert answer["type"] in types, (types, answer)
        return answer

    async def drop(self) -> None:
        assert self.client
        self.client.abort()
        await self._listening
        for room, epoch in self.rooms.items():
            self.known[room] = max([self.hears[room], *(offset for offset, _ in self.heard.get(room, []))]), epoch
        self.rooms, self.client = {}, None


class Talk:
    """The model. Each step changes the model and the server in the same way."""

    def __init__(self, server: Server) -> None:
        self.server = server
        number = next(numbers)
        self.users = [f"{name} {number}" for name in ("alice", "bob", "carol")]
        self.rooms = [f"{name}-{number}" for name in ("harbour", "vault")]
        self.devices = [Device(user) for user in (*self.users[:2], *self.users)]
        self.said: dict[Place, list[str]] = {}
        self.marks: dict[tuple[str, Place], int] = {}
        self.ids = count(1)

    def head(self, place: Place) -> int:
        return len(self.said.get(place, []))

    def unread_by(self, user: str) -> dict[Place, int]:
        return {place: self.head(place) - mark for (reader, place), mark in self.marks.items() if reader == user}

    def of(self, user: str) -> list[Device]:
        return [device for device in self.devices if device.user == user and device.client]

    def move(self, user: str, place: Place, offset: int) -> None:
        if (user, place) in self.marks:  # another device of the user may have left the room
            self.marks[user, place] = max(self.marks[user, place], offset)

    async def connect(self, device: Device, unsure: Place | None = None) -> None:
        """Connects a device. ``unsure`` is a place for which the test does not know whether the last
        message is stored.
        """
        await device.connect(self.server)
        reported = dict(device.unread)
        assert reported == self.unread_by(device.user) | ({unsure: reported[unsure]} if unsure in reported else {})
        for place, unread in reported.items():
            if isinstance(place, str):
                device.watches.add(place)
            elif place != unsure:
                device.hears[place] = self.head(place) - unread
        if isinstance(unsure, frozenset) and unsure in reported:
            device.hears[unsure] = self.marks.get((device.user, unsure), 0)
            device.doubtful[unsure] = self.head(unsure) + 1

    async def join(self, device: Device, room: str, how: int = 0, unsure: Place | None = None) -> None:
        """Joins a room.

        With ``how`` 1, the device resumes from its last offset. With 2 it reads from the first message. With 3 it sends
        an epoch that never existed. Otherwise it receives new messages only.
        """
        known, epoch = device.known.get(room, (0, None))
        after: dict[str, Any] = {1: {"after": known, "epoch": epoch}, 2: {"after": 0}}.get(how, {})
        if how == 3:
            after = {"after": known, "epoch": "unknown"}
        await device.ask("join", room=room, **after)
        self.joined(device, room, await device.answer("joined"), after, unsure)

    def joined(
        self, device: Device, room: str, answer: dict[str, Any], after: dict[str, Any], unsure: Place | None = None
    ) -> None:
        self.marks.setdefault((device.user, room), answer["offset"])
        assert answer["recovered"] is (after.get("epoch") != "unknown"), (answer, after)
        if room != unsure:
            unread = self.unread_by(device.user)[room]
            assert (answer["offset"], answer["unread"]) == (self.head(room), unread)
        device.hears[room] = after.get("after", 0) if after and answer["recovered"] else answer["offset"]
        device.rooms[room] = answer["epoch"]
        device.watches.discard(room)

    def where(self, device: Device, place: Place) -> dict[str, str]:
        return {"room": place} if isinstance(place, str) else {"to": device.wire(place).partition("/")[2]}

    def add(self, device: Device, place: Place, text: str) -> None:
        for user in place if isinstance(place, frozenset) else ():
            self.marks.setdefault((user, place), 0)
            for other in self.of(user):
                other.hears.setdefault(place, 0)
        self.said.setdefault(place, []).append(text)
        self.move(device.user, place, self.head(place))

    async def say(self, device: Device, place: Place, how: int) -> None:
        """Sends 1 + ``how`` messages without waiting for acknowledgements. Then repeats the first one with the same
        client_id.
        """
        texts = [f"{device.user}: {next(self.ids)}" for _ in range(1 + how)]
        for text in (*texts, texts[0]):
            await device.ask("send", client_id=text, text=text, **self.where(device, place))
        first = self.head(place) + 1
        for number, text in enumerate(texts):
            answer = await device.answer("ack")
            assert (answer["client_id"], answer["offset"]) == (text, first + number)
            self.add(device, place, text)
        assert (await device.answer("ack"))["offset"] == first

    async def say_and_drop(self, device: Device, place: Place, how: int) -> None:
        """Loses the connection before the acknowledgement, reconnects, and sends the message again with the same
        client_id.
        """
        text = f"{device.user}: {next(self.ids)}"
        await device.ask("send", client_id=text, text=text, **self.where(device, place))
        await asyncio.sleep(0.001 * how)  # not a wait for anything: the connection may be lost at any moment
        await device.drop()
        await self.connect(device, unsure=place)
        if isinstance(place, str):
            await self.join(device, place, 1, unsure=place)
        await device.ask("send", client_id=text, text=text, **self.where(device, place))
        assert (await device.answer("ack"))["offset"] == self.head(place) + 1
        self.add(device, place, text)

    async def read(self, device: Device, place: Place, how: int) -> None:
        if (device.user, place) in self.marks:
            offset = max(self.head(place) + 1 - how, 0)
            await device.ask("read", stream=device.wire(place), offset=offset)
            await self.settle(device)
            self.move(device.user, place, min(offset, self.head(place)))

    async def settle(self, device: Device) -> None:
        """Waits until the server has processed all messages of this device.

        The answer to a join can arrive here when the join finished before the leave cancelled it. A leave waits for the
        database file, and a later read message waits for the same file.
        """
        await device.ask("read", stream=f"direct/{device.user}", offset=0)
        await device.ask("history", stream=f"direct/{device.user}", limit=1)
        while (await device.answer("history", "joined"))["type"] != "history":
            pass

    async def history(self, device: Device, place: Place, how: int) -> None:
        await device.ask("history", stream=device.wire(place), limit=1 + how, before=max(self.head(place), 1))
        messages = (await device.answer("history"))["messages"]
        assert [message["text"] for message in messages] == self.said.get(place, [])[:-1][-1 - how :]

    def left(self, device: Device, room: str) -> None:
        self.marks.pop((device.user, room), None)
        for names in (device.rooms, device.hears, device.known):
            names.pop(room, None)
        for other in self.of(device.user):
            other.watches.discard(room)

    async def leave(self, device: Device, room: str, how: int) -> None:
        """Leaves a room without waiting for answers.

        With ``how`` 1, the device sends a message immediately before. With 2 it joins again immediately. With 3 it
        joins and leaves again.
        """
        text = f"{device.user}: {next(self.ids)}"
        if how == 1:
            await device.ask("send", client_id=text, text=text, room=room)
        await device.ask("leave", room=room)
        if how > 1:
            await device.ask("join", room=room)
        if how == 3:
            await device.ask("leave", room=room)
        if how == 1:
            assert (await device.answer("ack"))["offset"] == self.head(room) + 1
            self.add(device, room, text)
        self.left(device, room)
        if how == 2:
            self.joined(device, room, await device.answer("joined"), {})
        else:
            await self.settle(device)
            device.heard.pop(room, None)

    async def drop(self, device: Device) -> None:
        """Loses the connection at any moment. The messages received until then must be the start of the
        expected ones.
        """
        await device.drop()
        expected = self.expected(device)
        for place, heard in device.heard.items():
            assert heard == expected[place][: len(heard)]

    def expected(self, device: Device) -> dict[Place, Texts]:
        expected: dict[Place, Texts] = {}
        for place, after in device.hears.items():
            heard = device.heard.get(place, [])
            begun = heard[0][0] == after + 1 if heard else False
            start = after if begun else device.doubtful.get(place, after)
            expected[place] = list(enumerate(self.said.get(place, []), 1))[start:]
        return {place: texts for place, texts in expected.items() if texts}

    async def step(self, action: str, device: Device, where: int, how: int) -> None:
        if device.client is None:
            await self.connect(device)
        if action == "drop":
            return await self.drop(device)
        users = [frozenset({device.user, user}) for user in self.users]
        place = [*self.rooms, *users][where % (2 if action in ("join", "leave") else 5)]
        if isinstance(place, str) and place not in device.rooms:
            await self.join(device, place, how)
        if action != "join":
            await getattr(self, action)(device, place, how)

    async def check(self) -> None:
        """Checks that all users have received all messages, and that the unread counts and the presence lists are
        right.
        """
        devices = [device for device in self.devices if device.client]
        for device in devices:
            await agrees(lambda device=device: (device.heard, self.expected(device)))
            await agrees(lambda device=device: self.counted(device))
        for device in devices:
            for room in device.rooms:
                listed, present = None, sorted({other.user for other in devices if room in other.rooms})
                while listed != present:
                    await device.ask("presence", room=room)
                    listed = (await device.answer("presence"))["present"]
        for user in self.users:
            fresh = Device(user)
            await self.connect(fresh)
            await agrees(lambda fresh=fresh: (fresh.heard, self.expected(fresh)))
            await fresh.drop()
        for device in devices:
            await self.settle(device)
            assert device.heard == self.expected(device), "the device received a message after all expected ones"
            await self.drop(device)

    def counted(self, device: Device) -> tuple[dict[Place, int], dict[Place, int]]:
        """Returns the unread counts that the server sent, and the expected ones.

        Both contain only the places for which the server sends changes: conversations and watched rooms.
        """
        unread = self.unread_by(device.user)
        sent = {place for place in unread if isinstance(place, frozenset) or place in device.watches}
        return {place: device.unread.get(place, 0) for place in sent}, {place: unread[place] for place in sent}


async def agrees(both: Callable[[], tuple[Any, Any]]) -> None:
    """Waits until the two values are equal. If they stay different, the assertion shows both."""
    try:
        await until(lambda: both()[0] == both()[1])
    except AssertionError:
        actual, expected = both()
        assert actual == expected
