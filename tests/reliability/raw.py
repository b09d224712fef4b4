"""A WebSocket client without a library, for bytes that no library would send.

It builds frames, opens a connection that sends only the given bytes, and opens a connection that never reads. The mask
key of each frame is zero, so the test can read the payload in the sent bytes.
"""

import asyncio
import socket
import struct
from types import TracebackType

from tests.support.client import upgrade
from tests.support.running import GUARD, Server

TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
KEY = bytes(4)


def frame(first: int, payload: bytes = b"", claim: int | None = None) -> bytes:
    """Returns a client frame with this first byte. ``claim`` is the length in the header when it differs from the real
    length.
    """
    return _head(first, len(payload) if claim is None else claim, 0x80) + KEY + payload


def answer(first: int, payload: bytes = b"") -> bytes:
    """Returns the frame that the server must send."""
    return _head(first, len(payload), 0) + payload


def closing(code: int, reason: str = "") -> bytes:
    return answer(CLOSE, struct.pack(">H", code) + reason.encode())


def _head(first: int, length: int, masked: int) -> bytes:
    if length < 126:
        return struct.pack(">BB", first, masked | length)
    if length < 1 << 16:
        return struct.pack(">BBH", first, masked | 126, length)
    return struct.pack(">BBQ", first, masked | 127, length)


class Raw:
    """A TCP connection that sends and reads nothing by itself. Use: ``async with await Raw.connect(server)``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: Server) -> "Raw":
        return cls(*await asyncio.open_connection("127.0.0.1", server.port))

    @classmethod
    async def upgraded(cls, server: Server, token: str = "", path: str = "/ws/images") -> "Raw":
        """Opens a WebSocket. Reads the answer to the upgrade and the first message of the server before it returns."""
        raw = await cls.connect(server)
        raw.writer.write(upgrade(path, token or server.token()))
        assert (await raw.head()).startswith(b"HTTP/1.1 101 ")
        await raw.frame()
        return raw

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))

    async def head(self) -> bytes:
        """Returns the status line and the headers of an HTTP answer."""
        return await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), GUARD)

    async def frame(self) -> tuple[int, bytes]:
        """Returns the first byte and the payload of the next frame."""
        async with asyncio.timeout(GUARD):
            first, length = await self.reader.readexactly(2)
            if length >= 126:
                wide = await self.reader.readexactly(2 if length == 126 else 8)
                length = int.from_bytes(wide)
            return first, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Returns all bytes until the server closes the connection."""
        got = bytearray()
        async with asyncio.timeout(GUARD):
            try:
                while data := await self.reader.read(1 << 16):
                    got += data
            except ConnectionResetError:
                pass
        return bytes(got)


def thin(server: Server) -> socket.socket:
    """Returns a connection for which the system buffers as little as possible, about 100 KiB. It behaves like a slow
    modem.
    """
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.connect(("127.0.0.1", server.port))
    return connection
