"""The server's end of the socket to a decoder child: one question at a time, one answer.

The socket is watched for answers as long as the child lives, and a question goes out in one call where it fits: with
asyncio's sock_recv and sock_sendall, which watch anew for each call, a slice cost the server 60 us more.
"""

import asyncio
import socket
import struct
from contextlib import suppress

# Before each question and answer: the bytes of its header and of its payload.
LENGTHS = struct.Struct("!II")
# Room for a question on its way, in bytes, as far as the system allows: a slice that fits is sent in one call.
_ROOM = 1 << 20


class Channel:
    """To be made on the running loop, of a non-blocking socket, which it closes."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._loop = end, asyncio.get_running_loop()
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[bytes, bytes] | None] | None = None
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        self._loop.add_reader(end, self._read)

    async def ask(self, header: bytes, payload: bytes | memoryview) -> tuple[bytes, bytes]:
        """The header and the payload of the answer. Raises OSError when the child is gone."""
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
