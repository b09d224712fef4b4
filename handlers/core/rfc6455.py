"""Tornado's WebSocket protocol (RFC 6455), with one change: where Tornado drops a client without a close frame, this
module sends a close frame with the cause (section 7.1.7).
"""

import socket
import struct
from asyncio import Future
from contextlib import suppress

from tornado.websocket import WebSocketProtocol13

from handlers.core.disconnects import MESSAGE_TOO_BIG, NOT_UTF8, PROTOCOL_ERROR, SILENT, Disconnect

_FIN, _RESERVED, _OPCODE, _CONTROL, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x08, 0x80, 0x7F
_OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)


class ProtocolError(Exception):
    """The client violated the protocol. `disconnect` holds the close to send."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.reason)
        self.disconnect = disconnect


def _broken(rule: str) -> ProtocolError:
    return ProtocolError(PROTOCOL_ERROR.format(rule=rule))


class StrictProtocol(WebSocketProtocol13):
    _next = "header"
    _failed = False

    async def _receive_frame(self) -> None:
        if self._failed:
            # After a violation, further bytes are read and ignored. Closing the TCP connection with unread bytes would
            # reset it, and the client would not receive the close frame.
            await self.stream.read_bytes(1 << 16, partial=True)
            return
        self._next = "header"
        try:
            await super()._receive_frame()
        except ProtocolError as error:
            self._fail(error)

    async def _read_bytes(self, n: int) -> bytes:
        """Reads bytes as Tornado requests them, and checks the header and the length of each frame.

        For one frame, Tornado reads in this order: the first two bytes, the length if it is extended, the mask, the
        payload.
        """
        data = await super()._read_bytes(n)
        if self._next == "header":
            check_header(*data, within=self._fragmented_message_buffer is not None)
            self._next = "length" if data[1] & _LENGTH >= 126 else "payload"
        elif self._next == "length":
            before = len(self._fragmented_message_buffer or b"")
            if int.from_bytes(data) + before > self.params.max_message_size:
                raise ProtocolError(MESSAGE_TOO_BIG.format(most=self.params.max_message_size))
            self._next = "payload"
        return data

    def _handle_message(self, opcode: int, data: bytes) -> "Future[None] | None":
        try:
            if opcode == 0x1:
                data.decode()
            elif opcode == 0x8:
                check_close(data)
        except UnicodeDecodeError:
            raise ProtocolError(NOT_UTF8) from None
        return super()._handle_message(opcode, data)

    def _fail(self, error: ProtocolError) -> None:
        self.close(error.disconnect.code, error.disconnect.reason)
        self._failed = True
        if not self.stream.closed() and not self.stream.writing():
            with suppress(OSError):
                self.stream.socket.shutdown(socket.SHUT_WR)

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> "Future[None]":
        """Writes a frame. Control frames are written even when the outbox is full.

        This cannot overflow the outbox, because it never contains more than one control frame of each kind.
        """
        bound = self.stream.max_write_buffer_size
        if opcode & _CONTROL:
            self.stream.max_write_buffer_size = None
        try:
            return super()._write_frame(fin, opcode, data, flags)
        finally:
            self.stream.max_write_buffer_size = bound

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        if code is None and reason == "ping timed out":
            code, reason = SILENT.code, SILENT.reason
        super().close(code, reason)


def check_header(first: int, second: int, *, within: bool) -> None:
    """Checks the first two bytes of a frame. ``within`` says that the fragments of a message are not complete yet.

    Raises ProtocolError when the header violates RFC 6455.
    """
    opcode = first & _OPCODE
    if first & _RESERVED:
        raise _broken("reserved bits must be 0: no extension was agreed on")
    if opcode not in _OPCODES:
        raise _broken(f"there is no opcode {opcode}")
    if not second & _MASKED:
        raise _broken("frames of a client must be masked")
    if opcode & _CONTROL:
        if not first & _FIN or second & _LENGTH > 125:
            raise _broken("control frames must be whole and of at most 125 bytes")
    elif within != (opcode == 0x0):
        raise _broken("fragments must follow their first, and nothing else may")


def check_close(data: bytes) -> None:
    """Checks the payload of a close frame.

    Raises:
        ProtocolError: the close code is not allowed.
        UnicodeDecodeError: the reason is not UTF-8.
    """
    if not data:
        return
    code = struct.unpack_from(">H", data)[0] if len(data) > 1 else 0
    if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
        raise _broken(f"{code} is no close code")
    data[2:].decode()
