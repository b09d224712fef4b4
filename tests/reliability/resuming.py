"""A client that loses its connection, resumes by the rules of docs/protocol.md, and records all messages of the server.

It sends a slice again under a new id after a temporary error. It also sends a slice again when a resume shows that the
slice has no outcome and is not being processed.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import websockets

from tests.support.client import Client
from tests.support.pictures import small

# Close codes and HTTP statuses after which a client reconnects (see docs/protocol.md). Close code 1006 means that the
# connection ended without a close frame.
RECONNECTS = {1006, 1012, 4408, 4508}
_REFUSED = {429, 502, 503, 504}


class Resuming:
    """A client that connects to ``server`` each time. ``server`` is a Server or an object with the same interface."""

    def __init__(self, server: Any, name: str = "alice", window: int = 16, **members: Any) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        """The results by slice id. An id is NUMBER/ATTEMPT."""
        self.temporary: Counter[str] = Counter()
        self.closes: Counter[int] = Counter()
        self.resumed: Counter[bool] = Counter()
        """How many resumes recovered the session (True), and how many did not (False)."""
        self.faults: list[Any] = []
        """Errors, close codes and messages that no client may ever receive."""
        self.tops: list[int] = []
        """The offset_top of each slice, in the order in which the results arrived."""
        self._server, self._name, self._window, self._members = server, name, window, members
        self._waiting: list[tuple[int, int]] = []
        self._sent: dict[str, tuple[int, int]] = {}
        self._place: dict[str, Any] | None = None
        self._again: set[asyncio.Task[None]] = set()
        self._left = 0

    async def work(self, numbers: Sequence[int], enough: asyncio.Event | None = None) -> None:
        """Sends these slices in this order, and more slices until ``enough`` is set. Afterwards each slice has a
        result, or ``faults`` is not empty.
        """
        self._enough = enough
        self._left = len(numbers)
        self._waiting = [(number, 0) for number in numbers]
        while self._left and not self.faults:
            try:
                client = await Client.connect(self._server, self._name, open_timeout=60)
            except websockets.ConnectionClosed as error:
                # A server that shuts down between the upgrade and its first message.
                self._closed(error.rcvd.code if error.rcvd else 1006, error)
                continue
            except (OSError, EOFError, TimeoutError, websockets.InvalidHandshake) as error:
                status = getattr(getattr(error, "response", None), "status_code", 502)
                if status not in _REFUSED:
                    self.faults.append(error)
                await asyncio.sleep(0.05)
                continue
            async with client:
                try:
                    await self._go_on(client)
                except websockets.ConnectionClosed as error:
                    self._closed(client.socket.close_code or 1006, error)

    def _closed(self, code: int, error: Exception) -> None:
        self.closes[code] += 1
        if code not in RECONNECTS:
            self.faults.append(("close", code, error))

    async def _go_on(self, client: Client) -> None:
        pending: set[str] = set()
        if self._place:
            await client.send("resume", **self._place)
            resumed = await client.wait_for("resumed", "error")
            if resumed["type"] == "error":
                self.faults.append(resumed)
                return
            self.resumed[resumed["recovered"]] += 1
            if resumed["recovered"]:
                pending = set(resumed["pending"])
                last = self._place["after"] + resumed["replayed"]
                while self._place["after"] < last:
                    self._record(client, await client.receive(60))
            else:
                self._place = None
        if not self._place:
            self._place = {"session": client.hello["session"], "epoch": client.hello["epoch"], "after": 0}
        for id in [id for id in self._sent if id not in pending]:
            number, attempt = self._sent.pop(id)
            self._waiting.append((number, attempt + 1))
        while self._left and not self.faults:
            if self._enough and not self._enough.is_set() and self._left < self._window:
                first = len(self.tops) + self._left
                self._waiting += [(number, 0) for number in range(first, first + self._window)]
                self._left += self._window
            await self._send(client)
            with suppress(TimeoutError):
                self._record(client, await client.receive(0.2 if self._waiting or self._again else 60))

    async def _send(self, client: Client) -> None:
        while self._waiting and len(self._sent) < self._window:
            number, attempt = self._waiting.pop(0)
            id = f"{number}/{attempt}"
            self._sent[id] = number, attempt
            await client.slice(id, small(), number * 64, height=64, **self._members)

    def _record(self, client: Client, message: dict[str, Any]) -> None:
        if "seq" in message and self._place:
            if message["seq"] != self._place["after"] + 1:
                self.faults.append(("a gap or a repeat", self._place["after"], message))
            self._place["after"] = message["seq"]
        id = message.get("id", "")
        if message["type"] == "result":
            if id in self.results:
                self.faults.append(("a second result", message))
            self.results[id] = message
            if self._sent.pop(id, None):
                self.tops.append(message["offset_top"])
                self._left -= 1
        elif message["type"] == "error" and not message["temporary"]:
            self.faults.append(message)
        elif message["type"] == "error" and id in self._sent:
            self.temporary[message["code"]] += 1
            number, attempt = self._sent.pop(id)
            pause = asyncio.create_task(self._later(message.get("retry_after_ms", 500) / 1000, (number, attempt + 1)))
            self._again.add(pause)
            pause.add_done_callback(self._again.discard)

    async def _later(self, seconds: float, slice: tuple[int, int]) -> None:
        await asyncio.sleep(seconds)
        self._waiting.append(slice)
