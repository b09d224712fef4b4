"""The server's end of the socket to a decoder child, for one request at a time.

The loop watches the socket for as long as the child lives, and a request is sent with one system call if it fits. The
functions sock_recv and sock_sendall of asyncio watch the socket again for each call, which cost 60 us more per slice.
"""

import asyncio
import socket
import struct
from contextlib import suppress

# Precedes each request and each answer: the length of its header and of its payload, in bytes.
LENGTHS = struct.Struct("!II")
# Size of the send buffer in bytes, up to the limit of the system. A slice that fits is sent with one system call.
_ROOM = 1 << 20


class Channel:
    """Create it on the running loop with a non-blocking socket. ``close`` closes the socket."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._loop = end, asyncio.get_running_loop()
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes] | None] | None = None
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._loop.add_reader(end, self._read)

    async def ask(self, header: bytes, payload: bytes | memoryview) -> tuple[bytes, bytes]:
        """Sends a request and returns the header and the payload of the answer. Raises OSError when the child has
        ended.
        """
        self._answer = self._loop.create_future()
        head = LENGTHS.pack(len(header), len(payload)) + header
        try:
            sent = self._end.sendmsg([head, payload])
        except BlockingIOError:
            sent = 0
        if sent < len(head) + len(payload):
            await self._loop.sock_sendall(self._end, head[sent:])
            await self._loop.sock_sendall(self._end, memoryview(payload)[max(sent - len(head), 0) :])
        answer = await self._answer
        if answer is None:
            raise ConnectionResetError("the child is gone")
        return answer

    def _read(self) -> None:
        data = b""
        with suppress(OSError):
            data = self._end.recv(1 << 16)
        if not data:
            self._loop.remove_reader(self._end)
            return self._end_with(None)
        self._received += data
        if len(self._received) < LENGTHS.size:
            return
        header, payload = LENGTHS.unpack_from(self._received)
        if len(self._received) >= LENGTHS.size + header + payload:
            body = memoryview(bytes(self._received))[LENGTHS.size :]
            self._received.clear()
            self._end_with((bytes(body[:header]), bytes(body[header:])))

    def _end_with(self, answer: tuple[bytes, bytes] | None) -> None:
        if self._answer and not self._answer.done():
            self._answer.set_result(answer)

    def close(self) -> None:
        self._loop.remove_reader(self._end)
        self._end.close()
