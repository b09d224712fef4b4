"""A client of /ws/video for the tests of video. It can tell frames from other messages."""

import json
from typing import Any

from tests.support.client import Client
from tests.support.running import Server
from tests.support.streams import number_in

Message = dict[str, Any]


class Viewer(Client):
    """A client of /ws/video. Use it as ``async with await Viewer.enter(server)``."""

    @classmethod
    async def enter(cls, server: Server, name: str = "alice", scope: str = "video", **options: Any) -> "Viewer":
        claims = options.pop("claims", {})
        # without a limit, so that unread frames do not block the close message behind them
        options.setdefault("max_queue", None)
        client = await cls.connect(server, path="/ws/video", token=server.token(name, scope, **claims), **options)
        assert isinstance(client, cls)
        return client

    async def watch(self, source: str, watch: str = "w", **members: Any) -> Message:
        """Sends ``watch`` and returns the answer, ``watching`` or ``error``."""
        await self.send("watch", watch=watch, source=source, **members)
        return await self.wait_for("watching", "error", watch=watch)

    async def frame(self, watch: str = "w", placeholder: bool = False) -> Message:
        """Returns the next frame of a watch."""
        while True:
            frame = await self.wait_for("frame", watch=watch)
            if bool(frame.get("placeholder")) == placeholder:
                return frame

    async def numbers(self, count: int, watch: str = "w") -> list[int]:
        """Returns the numbers that the next frames of a watch show in their pixels."""
        return [number_in((await self.frame(watch))["payload"]) for _ in range(count)]

    async def state(self, *states: str, watch: str = "w") -> Message:
        """Waits until a watch is in one of these states, and returns the message."""
        while True:
            message = await self.wait_for("state", watch=watch)
            if message["state"] in states:
                return message

    async def refusal(self, type: str, **members: Any) -> Message:
        """Sends a message and returns the error that answers it."""
        await self.send(type, **members)
        return await self.wait_for("error")


def sources(**named: Any) -> str:
    """Returns the setting ``sources`` in its JSON form."""
    return json.dumps({name.replace("_", "-"): place for name, place in named.items()}, default=str)
