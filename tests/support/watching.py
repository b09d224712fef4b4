"""What the tests of video share: a client of /ws/video that knows its frames from its other messages."""

import json
from typing import Any

from tests.support.client import Client
from tests.support.running import Server
from tests.support.streams import number_in

Message = dict[str, Any]


class Viewer(Client):
    """``async with await Viewer.enter(server)``."""

    @classmethod
    async def enter(cls, server: Server, name: str = "alice", scope: str = "video", **options: Any) -> "Viewer":
        claims = options.pop("claims", {})
        options.setdefault("max_queue", None)  # frames come on whether they are read or not, and a close behind them
        client = await cls.connect(server, path="/ws/video", token=server.token(name, scope, **claims), **options)
        assert isinstance(client, cls)
        return client

    async def watch(self, source: str, watch: str = "w", **members: Any) -> Message:
        """The answer, ``watching`` or an ``error``."""
        await self.send("watch", watch=watch, source=source, **members)
        return await self.wait_for("watching", "error", watch=watch)

    async def frame(self, watch: str = "w", placeholder: bool = False) -> Message:
        """The next frame of a watch."""
        while True:
            frame = await self.wait_for("frame", watch=watch)
            if bool(frame.get("placeholder")) == placeholder:
                return frame

    async def numbers(self, count: int, watch: str = "w") -> list[int]:
        """What the next frames of a watch say on their pixels."""
        return [number_in((await self.frame(watch))["payload"]) for _ in range(count)]

    async def state(self, *states: str, watch: str = "w") -> Message:
        """The next of these states of a watch."""
        while True:
            told = await self.wait_for("state", watch=watch)
            if told["state"] in states:
                return told

    async def refusal(self, type: str, **members: Any) -> Message:
        """The error that answers this message."""
        await self.send(type, **members)
        return await self.wait_for("error")


def sources(**named: Any) -> str:
    """The setting, in its JSON form."""
    return json.dumps({name.replace("_", "-"): place for name, place in named.items()}, default=str)
