"""The load generator for HTTP: a few persistent connections, each with one prepared request in progress at a time."""

import selectors
import socket
import struct
import time
from collections.abc import Sequence

from benchmarks.client import Rate

_PATIENCE = 60


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def post(path: str, token: str, body: bytes) -> bytes:
    lines = ["POST {} HTTP/1.1", "Host: 127.0.0.1", "Authorization: Bearer {}", "Content-Length: {}", "", ""]
    return "\r\n".join(lines).format(path, token, len(body)).encode() + body


class Connection:
    """An HTTP connection. It can only read responses with a Content-Length."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE, 0))
        self._received = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        self._received.clear()
        self._socket.sendall(request)

    def receive(self) -> bytes | None:
        """Returns the body of the response once it is complete, otherwise None. Raises RuntimeError for a status other
        than 200.
        """
        data = self._socket.recv(1 << 18)
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if not data or (end >= 0 and b" 200 " not in self._received[:16]):
            raise RuntimeError(f"the request failed: {bytes(self._received[:300])!r}")
        if end < 0:
            return None
        lines = bytes(self._received[:end]).lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        return bytes(self._received[end + 4 :]) if len(self._received) == end + 4 + length else None

    def ask(self, request: bytes) -> bytes:
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body

    def close(self) -> None:
        self._socket.close()


def pump(port: int, requests: Sequence[bytes], seconds: float, connections: int) -> Rate:
    """Sends requests on all connections for ``seconds``, each as soon as the previous response has arrived.

    Then waits for the last responses.
    """
    started = time.perf_counter()
    done = 0
    with selectors.DefaultSelector() as selector:
        for index in range(connections):
            connection = Connection(port)
            connection.send(requests[index % len(requests)])
            selector.register(connection, selectors.EVENT_READ, connection)
        sent = connections
        while selector.get_map():
            for key, _ in selector.select(_PATIENCE):
                if key.data.receive() is None:
                    continue
                done += 1
                if time.perf_counter() - started < seconds:
                    key.data.send(requests[sent % len(requests)])
                    sent += 1
                else:
                    selector.unregister(key.data)
                    key.data.close()
    return Rate(done, time.perf_counter() - started)
