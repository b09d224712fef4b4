"""A client of /ws/chat for the tests of chat."""

from typing import Any

from tests.support.client import Client
from tests.support.running import Server


class Chatter(Client):
    """A client of /ws/chat. Use it as ``async with await Chatter.enter(server, name)``.

    ``unread`` has the numbers of unread messages that the server sent at the start, by stream. ``counts`` has the last
    numbers that the server has sent since then.
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
        """Sends a message and returns its offset, once the server has acknowledged the message."""
        client_id = id or text
        await self.send("send", client_id=client_id, text=text, **where)
        answer = await self.wait_for("ack", "error", client_id=client_id)
        assert answer["type"] == "ack", answer
        return int(answer["offset"])

    async def hear(self, count: int, stream: str | None = None) -> list[tuple[int, str]]:
        """Returns offset and text of the next messages, of this stream only if it is given."""
        heard = []
        while len(heard) < count:
            message = await self.wait_for("message")
            if stream in (None, message["stream"]):
                heard.append((message["offset"], message["text"]))
        return heard

    async def counted(self, stream: str, unread: int | None) -> None:
        """Waits until the server has sent this number of unread messages of a stream.

        Returns immediately when the last number received is already the right one. None means that the stream is no
        longer counted.
        """
        while self.counts.get(stream, -1) != unread:
            await self.wait_for("unread")

    async def present(self, room: str) -> list[str]:
        """Requests and returns the list of users who are present in a room."""
        await self.send("presence", room=room)
        while "present" not in (answer := await self.wait_for("presence", room=room)):
            pass  # skips the message of a user who enters or leaves
        return list(answer["present"])
