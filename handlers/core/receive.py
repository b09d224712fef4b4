"""PullWebSocket: a socket read in pull style. Its handler is one coroutine that asks for messages when it is ready for
them; what comes meanwhile waits in a bounded inbox.

The connection itself is read on, full inbox or not: a paused read would pause pongs and the close too. So a client
that sends faster than its handler asks is closed, and told what to change.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from handlers.core.disconnects import ENDED, TOO_MANY_UNREAD
from handlers.core.websocket import BaseWebSocketHandler

# Bytes that may wait in an inbox; a message that comes alone may be larger.
MOST_BYTES = 4 << 20
# Seconds that a conversation goes on after the close, before it is cancelled.
LAST_WORDS = 5.0


class ConnectionEnded(Exception):
    """The connection is closed, and every message that came before was received."""


class ReceiveQueue:
    """Messages that wait, first come first out, bounded in number and in bytes. A cancelled ``receive`` loses none."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, message: str | bytes) -> bool:
        """Whether there was room."""
        if self._waiting and (len(self._waiting) >= self._most or self._bytes + len(message) > self._most_bytes):
            return False
        self._waiting.append(message)
        self._bytes += len(message)
        self._changed.set()
        return True

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def receive(self) -> str | bytes:
        """The next message, waited for. Raises ConnectionEnded when there will be none."""
        while (message := self.receive_nowait()) is None:
            self._changed.clear()
            await self._changed.wait()
        return message

    def receive_nowait(self) -> str | bytes | None:
        """The next message, None when none waits. Raises ConnectionEnded when there will be none."""
        if not self._waiting:
            if self._ended:
                raise ConnectionEnded
            return None
        message = self._waiting.popleft()
        self._bytes -= len(message)
        return message

    def pending(self) -> int:
        return len(self._waiting)


class PullWebSocketHandler(BaseWebSocketHandler):
    """A subclass has its ``scope`` and one coroutine ``talk``; when that returns, the socket is closed."""

    async def talk(self) -> None:
        """The whole conversation, from the first message to the last."""
        raise NotImplementedError

    async def receive(self) -> str | bytes:
        """The next message, waited for. Raises ConnectionEnded once the connection is closed and nothing waits."""
        return await self._inbox.receive()

    def receive_nowait(self) -> str | bytes | None:
        """The next message if one waits. Raises ConnectionEnded once the connection is closed and nothing waits."""
        return self._inbox.receive_nowait()

    def pending(self) -> int:
        """How many messages wait."""
        return self._inbox.pending()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Each message as it is asked for, until the connection is closed."""
        try:
            while True:
                yield await self.receive()
        except ConnectionEnded:
            return

    async def opened(self) -> None:
        # As many as may come at once, so that one who keeps to the rate is never closed for a burst.
        self._inbox = ReceiveQueue(int(2 * self.rate.per_second), MOST_BYTES)
        self._talk = asyncio.create_task(self._converse())
        self._talk.add_done_callback(self._ended)

    async def _converse(self) -> None:
        try:
            await self.talk()
        except ConnectionEnded:
            return
        self.disconnect(ENDED)

    def on_message(self, message: str | bytes) -> None:
        if self.ws_connection is None or not self.within_rate():
            return
        if not self._inbox.put(message):
            self.services.metrics.refusals.labels("inbox").inc()
            self.disconnect(TOO_MANY_UNREAD.format(count=self.pending()))

    def send_expiry_warning(self, in_s: int) -> None:
        """A conversation has words of its own, and this would be none of them."""

    def closed(self) -> None:
        self._inbox.end()
        asyncio.get_running_loop().call_later(LAST_WORDS, self._talk.cancel)
