"""Three small example sockets: /ws/echo, /ws/broadcast and /ws/countdown.

Each is a class of a few lines and a line in ``routes``. Authorization, rate limit and outbox are the same as for every
socket.
"""

import asyncio
from typing import ClassVar

from handlers.core.auth import Scope
from handlers.core.disconnects import BROADCAST_TOO_BIG, DONE
from handlers.core.receive import PullWebSocketHandler
from handlers.core.websocket import BaseWebSocketHandler

# Maximum number of bytes of a broadcast. One sender must not be able to fill the outboxes of the others with one
# message.
MAX_BYTES = 64 << 10


class Echo(PullWebSocketHandler):
    scope: ClassVar[Scope] = "chat"
    description = "Sends every message back, text as text and bytes as bytes."

    async def run(self) -> None:
        async for message in self.messages():
            await self.deliver(message)


class Broadcast(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "chat"
    description = f"Sends every message to all connected clients, also to its sender: at most {MAX_BYTES:,} bytes."

    def initialize(self, everybody: set["Broadcast"]) -> None:
        self.everybody = everybody

    async def opened(self) -> None:
        self.everybody.add(self)

    def on_message(self, message: str | bytes) -> None:
        if self.ws_connection is None or not self.within_rate():
            return
        data = message.encode() if isinstance(message, str) else message
        if len(data) > MAX_BYTES:
            return self.disconnect(BROADCAST_TOO_BIG.format(most=MAX_BYTES))
        for each in list(self.everybody):
            each.send(message)

    def send_expiry_warning(self, in_s: int) -> None:
        """Does nothing, because every message of this socket is one that a client sent."""

    def closed(self) -> None:
        self.everybody.discard(self)


class Countdown(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "chat"
    description = "Counts down from ten, twice a second, then closes."

    async def opened(self) -> None:
        self.spawn(self._count())

    async def _count(self) -> None:
        for number in range(10, 0, -1):
            await self.deliver(str(number))
            await asyncio.sleep(0.5)
        self.disconnect(DONE)


routes = [
    (r"/ws/echo", Echo),
    (r"/ws/broadcast", Broadcast, {"everybody": set[Broadcast]()}),
    (r"/ws/countdown", Countdown),
]
