"""PullWebSocketHandler: a subclass is one coroutine that requests messages. Until then they wait in a bounded queue.

When the queue is full, the connection is still read, because otherwise pongs and the close would not be read either.
Instead, the server closes the connection of a client that sends too fast, with a reason that says what to change.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import ClassVar

from handlers.core.disconnects import ENDED, TOO_MANY_UNREAD
from handlers.core.websocket import BaseWebSocketHandler

# Maximum number of bytes in a queue. A single message may be larger.
MAX_BYTES = 4 << 20


class ConnectionEnded(Exception):
    """The connection is closed, and every message before the close was received."""


class ReceiveQueue:
    """Messages in the order of arrival, limited in number and bytes. Cancelling ``receive`` loses no message."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, message: str | bytes) -> bool:
        """Adds a message. Returns False when the queue is full."""
        is_full = len(self._waiting) >= self._max_messages or self._bytes + len(message) > self._max_bytes
        if self._waiting and is_full:
            return False
        self._waiting.append(message)
        self._bytes += len(message)
        self._changed.set()
        return True

    def end(self) -> None:
        """Ends the queue. No more messages are added."""
        self._ended = True
        self._changed.set()

    async def receive(self) -> str | bytes:
        """Waits for the next message. Raises ConnectionEnded when there are no more."""
        while (message := self.receive_nowait()) is None:
            self._changed.clear()
            await self._changed.wait()
        return message

    def receive_nowait(self) -> str | bytes | None:
        """Returns the next message, or None. Raises ConnectionEnded when there are no more."""
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
    """A subclass has a ``scope`` and one coroutine ``run``. When ``run`` returns, the socket is closed."""

    close_grace: ClassVar[float] = 5.0
    """Seconds that ``run`` may continue after the close, before it is cancelled."""

    async def run(self) -> None:
        """Handles the whole connection. Every subclass must implement it."""
        raise NotImplementedError

    async def receive(self) -> str | bytes:
        """Waits for the next message. Raises ConnectionEnded when the connection is closed and no message
        is waiting.
        """
        return await self._queue.receive()

    def receive_nowait(self) -> str | bytes | None:
        """Returns the next message, or None. Raises ConnectionEnded when the connection is closed and no message is
        waiting.
        """
        return self._queue.receive_nowait()

    def pending(self) -> int:
        """Returns the number of waiting messages."""
        return self._queue.pending()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yields each message until the connection is closed."""
        try:
            while True:
                yield await self.receive()
        except ConnectionEnded:
            return

    async def opened(self) -> None:
        # As many as the rate allows in a burst, so that a client within its rate is never closed.
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
        """Does nothing, because these sockets define their own messages, without those of sluice.v2."""

    def closed(self) -> None:
        self._queue.end()
        asyncio.get_running_loop().call_later(self.close_grace, self._running.cancel)
