"""PullWebSocketHandler: its subclass is one coroutine that receives messages when it is ready for them; until then they
wait in a bounded queue.

The connection is read on when the queue is full: a paused read would pause pongs and the close too. So a client that
sends faster than the coroutine receives is closed, with a reason that says what to change.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import ClassVar

from handlers.core.disconnects import ENDED, TOO_MANY_UNREAD
from handlers.core.websocket import BaseWebSocketHandler

# Bytes that may wait in a queue; a message that waits alone may be larger.
MAX_BYTES = 4 << 20


class ConnectionEnded(Exception):
    """The connection is closed, and every message that came before the close was received."""


class ReceiveQueue:
    """Messages that wait, first in first out, bounded in number and in bytes. A cancelled ``receive`` loses none."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, message: str | bytes) -> bool:
        """Whether the message was added: False when the queue is full."""
        is_full = len(self._waiting) >= self._max_messages or self._bytes + len(message) > self._max_bytes
        if self._waiting and is_full:
            return False
        self._waiting.append(message)
        self._bytes += len(message)
        self._changed.set()
        return True

    def end(self) -> None:
        """No more messages will be added."""
        self._ended = True
        self._changed.set()

    async def receive(self) -> str | bytes:
        """Waits for the next message. Raises ConnectionEnded when there will be none."""
        while (message := self.receive_nowait()) is None:
            self._changed.clear()
            await self._changed.wait()
        return message

    def receive_nowait(self) -> str | bytes | None:
        """The next message, or None. Raises ConnectionEnded when there will be none."""
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
    """A subclass has a ``scope`` and one coroutine ``run``; when that returns, the socket is closed."""

    close_grace: ClassVar[float] = 5.0
    """Seconds that ``run`` goes on after the close, before it is cancelled."""

    async def run(self) -> None:
        """Handles the connection, from the first message to the last."""
        raise NotImplementedError

    async def receive(self) -> str | bytes:
        """Waits for the next message. Raises ConnectionEnded once the connection is closed and no message waits."""
        return await self._queue.receive()

    def receive_nowait(self) -> str | bytes | None:
        """The next message, or None. Raises ConnectionEnded once the connection is closed and no message waits."""
        return self._queue.receive_nowait()

    def pending(self) -> int:
        """How many messages wait."""
        return self._queue.pending()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Each message, until the connection is closed."""
        try:
            while True:
                yield await self.receive()
        except ConnectionEnded:
            return

    async def opened(self) -> None:
        # As many as the rate allows at once, so that a client that keeps to the rate is never closed for a burst.
        self._queue = ReceiveQueue(int(2 * self.rate.per_second), MAX_BYTES)
        self._running = asyncio.create_task(self._run())
        self._running.add_done_callback(self._on_task_done)

    async def _run(self) -> None:
        try:
            await self.run()
        except ConnectionEnded:
            return
        self.disconnect(ENDED)

    def on_message(self, message: str | bytes) -> None:
        if self.ws_connection is None or not self.within_rate():
            return
        if not self._queue.put(message):
            self.disconnect(TOO_MANY_UNREAD.format(count=self.pending()))

    def send_expiry_warning(self, in_s: int) -> None:
        """Not sent: the messages of these sockets are their own, without sluice.v2's envelope."""

    def closed(self) -> None:
        self._queue.end()
        asyncio.get_running_loop().call_later(self.close_grace, self._running.cancel)
