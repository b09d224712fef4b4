"""Thousands of connections that only answer pings."""

import selectors
import time

from benchmarks.client import Client
from benchmarks.frames import PONG, head
from benchmarks.processes import token

_PING = 0x89
_SHARE = 250


class Crowd:
    def __init__(self, port: int, size: int, admitted: bool) -> None:
        """Opens the connections. With ``admitted``, each has a separate token and waits for the ``hello`` of Sluice."""
        self._selector = selectors.DefaultSelector()
        self.pongs = 0
        self.clients: list[Client] = []
        for number in range(size):
            client = Client(port, token(f"user{number}") if admitted else "")
            self.clients.append(client)
            self._selector.register(client.fileno(), selectors.EVENT_READ, client)
            if number % _SHARE == 0:
                self.answer(0)
        self.answer(1)

    def answer(self, seconds: float) -> None:
        """Reads messages for ``seconds``, and answers each ping with a pong that has the same payload."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            events = self._selector.select(max(left, 0))
            for key, _ in events:
                data = key.data.receive(wait=False)
                if data[:1] == bytes([_PING]):
                    key.data.send((head(PONG, data[2 : 2 + data[1]]), b""))
                    self.pongs += 1
            if left <= 0:
                return

    def close(self) -> None:
        self._selector.close()
        for client in self.clients:
            client.close()
