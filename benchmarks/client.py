"""The load generator: one blocking socket that sends frames and counts the results by a marker in the received bytes.

It shares the CPU cores with the server that it measures. Therefore it parses neither frames nor JSON. It costs 30 to 50
us a slice, most of it in the kernel for the transfer of the bytes.
"""

import base64
import os
import socket
import struct
import time
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.frames import Frame, close

WINDOW = 64
# The socket is read for results after this many frames, so that the buffers of neither side fill up.
_LOOK_EVERY = 16
# The most bytes of one read. For more than 128 KiB, Python would allocate the buffer from the kernel and free it again
# on each read.
_MOST_READ = 64 << 10
# Seconds between two reads while a long window is full. Waking up for each result would cost three times the CPU.
_NAP = 0.008
# Seconds without any data after which the server is considered lost.
_PATIENCE = 60


@dataclass(frozen=True, slots=True)
class Wire:
    """A protocol: the path of its URL, and the bytes that mark a result and a failure."""

    path: str
    done: bytes
    failed: bytes


SLUICE = Wire("/ws/images", b'"type":"result"', b'"type":"error"')
BROWSER = Wire("/ws", rb"{\"url\"", rb"{\"error\"")


@dataclass(frozen=True, slots=True)
class Rate:
    """A measured rate: ``count`` items in ``seconds``, with ``cpu`` seconds of CPU time."""

    count: int
    seconds: float
    cpu: float = 0.0

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_ms(self) -> float:
        return self.cpu / self.count * 1000


class Client:
    def __init__(self, port: int, token: str = "", wire: Wire = SLUICE) -> None:
        self.wire = wire
        self._tail = b""
        self._socket = socket.create_connection(("127.0.0.1", port))
        # The timeout is set in the kernel. With a timeout of Python, a read with MSG_DONTWAIT would wait.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", _PATIENCE, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        query = f"?query_string={token}" if wire is BROWSER else ""
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET {wire.path}{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        answer = self.read_until(b"\r\n\r\n")
        assert b" 101 " in answer, answer

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self, wait: bool = True) -> bytes:
        """Returns the received bytes. If there are none, waits for them, or returns b"" when ``wait`` is false.

        Raises:
            TimeoutError: the server sent nothing for 60 s.
            ConnectionResetError: the server has closed the connection.
        """
        try:
            data = self._socket.recv(_MOST_READ, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            if wait:
                raise TimeoutError(f"the server sent nothing for {_PATIENCE} s") from None
            return b""
        if not data:
            raise ConnectionResetError("the server has closed the connection")
        return data

    def send(self, frame: Frame) -> None:
        sent = self._socket.sendmsg(frame)
        if sent < len(frame[0]) + len(frame[1]):
            self._socket.sendall(b"".join(frame)[sent:])

    def results(self, wait: bool = True) -> int:
        """Returns the number of results since the last call. Raises RuntimeError when a slice failed."""
        data = self._tail + self.receive(wait)
        if self.wire.failed in data:
            raise RuntimeError(f"a slice failed: {data[data.index(self.wire.failed) :][:300]!r}")
        # Keeps one byte less than the length of the marker: so no marker is counted twice, and none is missed that is
        # split between two reads.
        self._tail = data[-len(self.wire.done) + 1 :]
        return data.count(self.wire.done)

    def read_until(self, marker: bytes, count: int = 1) -> bytes:
        """Returns all bytes up to the ``count``-th marker, and the bytes that were received with it."""
        collected = bytearray()
        seen = looked = 0
        while seen < count:
            collected += self.receive()
            seen += collected.count(marker, looked)
            looked = max(len(collected) - len(marker) + 1, 0)
        return bytes(collected)

    def pump(self, frames: Iterable[Frame], seconds: float, window: int = WINDOW) -> Rate:
        """Sends frames for ``seconds``, at most ``window`` ahead of the results, and waits for the last result."""
        started = time.perf_counter()
        sent = done = 0
        for frame in frames:
            while sent - done >= window:
                if window >= WINDOW:
                    time.sleep(_NAP)
                done += self.results()
            if time.perf_counter() - started >= seconds:
                break
            self.send(frame)
            sent += 1
            if sent % _LOOK_EVERY == 0:
                done += self.results(wait=False)
        while done < sent:
            done += self.results()
        return Rate(done, time.perf_counter() - started)

    def close(self) -> None:
        self.send(close())
        self._socket.close()
