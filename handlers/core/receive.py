"""PullWebSocketHandler: a base class for sockets that are written as one coroutine. The coroutine receives messages
when it is ready for them; until then they wait in a bounded queue.

The server does not stop reading the connection when the queue is full, because a pause would also delay pongs and the
close frame. Instead, a client that sends faster than the coroutine receives is closed, with a reason that says what to
change.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import ClassVar

from handlers.core.disconnects import ENDED, TOO_MANY_UNREAD
from handlers.core.websocket import BaseWebSocketHandler

# The most bytes that may wait in a queue. A message that waits alone may be larger.
MAX_BYTES = 4 << 20


class ConnectionEnded(Exception):
    """The connection is closed, and all messages from before the close have been received."""


class ReceiveQueue:
    """A first-in, first-out queue of received messages, bounded in messages and in bytes.

    A cancelled call of ``receive`` loses no message.
    """

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._waiting: deque[str | bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, message: str | bytes) -> bool:
        """Adds a message, and returns True. Returns False without adding it when the queue is full."""
        is_full = len(self._waiting) >= self._max_messages or self._bytes + len(message) > self._max_bytes
        if self._waiting and is_full:
            return False
        self._waiting.append(message)
        self._bytes += len(message)
        self._changed.set()
        return True

    def end(self) -> None:
        """Marks the queue as ended: no more messages will be added."""
        self._ended = True
        self._changed.set()

    async def receive(self) -> str | bytes:
        """Waits for the next message and returns it. Raises ConnectionEnded when no message can follow."""
        while (message := self.receive_nowait()) is None:
            self._changed.clear()
            await self._changed.wait()
        return message

    def receive_nowait(self) -> str | bytes | None:
        """Returns the next message, or None when no message waits yet. Raises ConnectionEnded when no message can
        follow.
        """
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
    """A socket that is one coroutine. A subclass sets ``scope`` and overrides ``run``; when ``run`` returns, the socket
    closes.
    """

    close_grace: ClassVar[float] = 5.0
    """Seconds for which ``run`` may continue after the close. Then it is cancelled."""

    async def run(self) -> None:
        """Handles the connection from the first message to the last. Raises NotImplementedError unless a subclass
        overrides it.
        """
        raise NotImplementedError

    async def receive(self) -> str | bytes:
        """Waits for the next message and returns it.

        Raises ConnectionEnded when the connection is closed and no message waits.
        """
        return await self._queue.receive()

    def receive_nowait(self) -> str | bytes | None:
        """Returns the next message, or None when no message waits yet.

        Raises ConnectionEnded when the connection is closed and no message waits.
        """
        return self._queue.receive_nowait()

    def pending(self) -> int:
        """Returns how many messages wait."""
        return self._queue.pending()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yields each message until the connection is closed."""
        try:
            while True:
                yield await self.receive()
        except ConnectionEnded:
            return

    async def opened(self) -> None:
        # The queue holds as many messages as the rate limit lets pass in one burst. A client within the rate limit is
        # never closed because of a burst.
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
        """Sends nothing. The messages of these sockets do not use the format of sluice.v2, so a warning would not fit
        in.
        """

    def closed(self) -> None:
        self._queue.end()
        asyncio.get_running_loop().call_later(self.close_grace, self._running.cancel)
