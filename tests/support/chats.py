"""What the tests of chat share: a client of /ws/chat that knows what it was told."""

from typing import Any

from tests.support.client import Client
from tests.support.running import Server


class Chatter(Client):
    """``async with await Chatter.enter(server, name)``; its ``unread`` is what it was told at the beginning.

    ``counts`` are what it has heard since then too, by stream, in messages of any number.
    """

    unread: dict[str, int]

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.counts: dict[str, int | None] = {}

    @classmethod
    async def enter(cls, server: Server, name: str, scope: str = "chat", **claims: Any) -> "Chatter":
        client = await cls.connect(server, path="/ws/chat", token=server.token(name, scope, **claims))
        assert isinstance(client, cls)
        client.unread = (await client.wait_for("unread"))["streams"]
        return client

    async def receive(self, *given: Any) -> dict[str, Any]:
        message = await super().receive(*given)
        if message["type"] == "unread":
            self.counts |= message["streams"]
        return message

    async def join(self, room: str, **members: Any) -> dict[str, Any]:
        await self.send("join", room=room, **members)
        return await self.wait_for("joined", room=room)

    async def say(self, text: str, id: str = "", **where: Any) -> int:
        """Says it; its offset, once it is acknowledged."""
        client_id = id or text
        await self.send("send", client_id=client_id, text=text, **where)
        answer = await self.wait_for("ack", "error", client_id=client_id)
        assert answer["type"] == "ack", answer
        return int(answer["offset"])

    async def hear(self, count: int, stream: str | None = None) -> list[tuple[int, str]]:
        """The next messages (of that stream): offset and text."""
        heard = []
        while len(heard) < count:
            message = await self.wait_for("message")
            if stream in (None, message["stream"]):
                heard.append((message["offset"], message["text"]))
        return heard

    async def counted(self, stream: str, unread: int | None) -> None:
        """Waits until that many are said to be unread there, if that was not said before the messages that were heard;
        None: that it is no longer counted."""
        while self.counts.get(stream, -1) != unread:
            await self.wait_for("unread")

    async def present(self, room: str) -> list[str]:
        """Who is there, asked for now."""
        await self.send("presence", room=room)
        while "present" not in (answer := await self.wait_for("presence", room=room)):
            pass  # somebody enters or leaves
        return list(answer["present"])
