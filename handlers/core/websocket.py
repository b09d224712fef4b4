"""BaseWebSocketHandler, the base class of all sockets.

It authorizes before the upgrade, limits the rate of messages and the size of the outbox, calls a method for each
message, sends errors or closes the socket, and handles tokens that expire or are renewed.
"""

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any, ClassVar

import structlog
import tornado.iostream
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13

from handlers.core.auth import Scope, TokenError, User, redact_tokens
from handlers.core.client_message import Message, Token, parse, validate
from handlers.core.disconnects import (
    BACKEND_UNAVAILABLE,
    INTERNAL_ERROR,
    OUTBOX_FULL,
    READER_STALLED,
    TOKEN_EXPIRED,
    TOO_MANY_MESSAGES,
    Disconnect,
)
from handlers.core.framing import FrameError, frame, unpack
from handlers.core.http import COOKIE, BaseHandler
from handlers.core.rate_limit import RateLimit
from handlers.core.refusals import CLIENT_GONE, NOT_A_SOCKET_REQUEST, SOCKET_ORIGIN_MISSING, Refused
from handlers.core.rfc6455 import StrictProtocol
from works.errors import WorkError

log = structlog.get_logger()

SUBPROTOCOL = "sluice.v2"
# Seconds for which a message waits for others, to be written together with them.
_BATCH_DELAY = 0.005
# Seconds between the warning that a token expires and its expiry.
_EXPIRY_WARNING = 60.0


class BaseWebSocketHandler(BaseHandler, WebSocketHandler):
    """A subclass has a ``scope``, its ``accepts`` (message type -> schema) and a method ``on_<type>`` for each type.

    It acquires resources in ``opened`` and releases them in ``closed``, which is called once for each ``opened`` that
    did not raise.
    """

    scope: ClassVar[Scope]
    description: ClassVar[str] = ""
    """A paragraph for a person who opens the socket's URL in a browser."""
    accepts: ClassVar[dict[str, type[Message]]] = {}
    echoed_members: ClassVar[tuple[str, ...]] = ("id",)
    """Members of a message that its error repeats, so that the client knows which message has failed."""
    rate_setting: ClassVar[str] = "messages_per_second"
    """Name of the setting that limits how many messages a second a socket of this class may receive."""

    user: User
    user_name: str
    _is_open = _is_closed = False
    _batch = b""
    _batch_timer: asyncio.TimerHandle | None = None

    @property
    def messages_per_second(self) -> int:
        """Maximum number of messages a second: the value of `rate_setting`."""
        return self.context.sockets.messages_per_second

    async def opened(self) -> None:
        """Called when the socket is open, before the first message."""

    def closed(self) -> None:
        """Called when the socket is closed. ``close_code`` is the client's code, if it sent one."""

    async def prepare(self) -> None:
        """Authorizes the connection before the upgrade. Raises Refused."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        if self.request.headers.get("Upgrade", "").lower() != "websocket":
            return self._answer_plain_request()
        if self.get_cookie(COOKIE) and "Origin" not in self.request.headers:
            raise self.refuse(SOCKET_ORIGIN_MISSING)
        self.user = await self.authorize(self.scope)
        self.user_name = self.user.name
        if self._is_closed:
            raise Refused(CLIENT_GONE)
        try:
            self.context.connections.add(self)
        except Refused as error:
            raise self.record_refusal(error) from None

    def _answer_plain_request(self) -> None:
        """Answers a request without an upgrade: with a page for people, with 426 for programs that accept JSON. Raises
        Refused.
        """
        if "application/json" in self.request.headers.get("Accept", ""):
            raise Refused(NOT_A_SOCKET_REQUEST, description=self.description)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{self.request.path} is a WebSocket.\n\n{self.description}\n")

    @property
    def token(self) -> str:
        for offered in self.request.headers.get("Sec-WebSocket-Protocol", "").split(","):
            if offered.strip().startswith("bearer."):
                return offered.strip().removeprefix("bearer.")
        return super().token

    def check_origin(self, origin: str) -> bool:
        return True  # ``authorize`` has checked it

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        stock = super().get_websocket_protocol()
        return StrictProtocol(self, False, stock.params) if isinstance(stock, WebSocketProtocol13) else None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    async def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        if self.ws_connection and self.ws_connection.stream:
            self.ws_connection.stream.max_write_buffer_size = self.context.sockets.outbox
        self.rate = RateLimit(self.messages_per_second)
        try:
            await self.opened()
        except OSError as error:
            return self._close_unavailable(error)
        except Exception:
            # Tornado does not call on_close after a failed open.
            self.on_connection_close()
            raise
        self._is_open = True
        if self.ws_connection and not self.ws_connection.is_closing():
            self._schedule_expiry()

    def on_message(self, message: str | bytes) -> None:
        if self.ws_connection is None or not self.within_rate():
            return  # after the close no message is accepted, because the token may have expired
        echoed: dict[str, str] = {}
        try:
            text, payload = (message, memoryview(b"")) if isinstance(message, str) else unpack(message)
            members = parse(text)
            candidates = ((name, members.get(name)) for name in self.echoed_members)
            echoed = {name: value for name, value in candidates if isinstance(value, str) and len(value) <= 100}
            parsed = validate(members, self.accepts)
            getattr(self, f"on_{parsed.type}")(parsed, payload)
        except FrameError as error:
            self.reply_error(WorkError("bad_message", str(error)))
        except WorkError as error:
            self.reply_error(error, echoed)

    def within_rate(self) -> bool:
        """Counts a message. When there are too many, closes the socket and returns False."""
        if self.rate.take():
            return True
        self.disconnect(TOO_MANY_MESSAGES.format(setting=self.rate_setting))
        return False

    def on_token(self, message: Token, payload: memoryview) -> None:
        self.spawn(self._renew_token(message.token))

    async def _renew_token(self, token: str) -> None:
        """Replaces the token with a new one of the same user with the same scope."""
        try:
            user = await self.context.verifier.verify(token, self.address)
        except TokenError as error:
            return self.reply_error(WorkError("forbidden", error.message))
        if user.name != self.user.name or self.scope not in user.scopes:
            return self.reply_error(WorkError("forbidden", "the new token must be of the same user and scope"))
        self.user = user
        self._schedule_expiry()
        self.send({"type": "renewed", "expires_at": user.expires_at})

    def _schedule_expiry(self) -> None:
        for timer in self._timers:
            timer.cancel()
        left = self.user.expires_at - time.time()
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(
                max(left - _EXPIRY_WARNING, 0), self.send_expiry_warning, max(0, round(min(left, _EXPIRY_WARNING)))
            ),
            loop.call_later(max(left, 0), self.disconnect, TOKEN_EXPIRED),
        ]

    def send_expiry_warning(self, in_s: int) -> None:
        self.send({"type": "expiring", "in_s": in_s})

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Runs ``work`` as a task that is cancelled when the socket closes.

        When it raises an OSError, the socket is closed as BACKEND_UNAVAILABLE; after any other exception, as
        INTERNAL_ERROR.
        """
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError):
            self._close_unavailable(error)
        elif error:
            log.error("socket.failed", path=self.request.path, exc_info=error)
            self.disconnect(INTERNAL_ERROR)

    def _close_unavailable(self, error: OSError) -> None:
        log.error("socket.backend_unavailable", path=self.request.path, reason=str(error))
        self.disconnect(BACKEND_UNAVAILABLE)

    def send(self, message: dict[str, Any] | str | bytes) -> "asyncio.Future[None] | None":
        """Sends a message, or closes the socket when its outbox is full. The future is done when everything is sent."""
        if isinstance(message, dict):
            message = json.dumps(message, separators=(",", ":"))
        return self._write(frame(message))

    def send_batched(self, message: dict[str, Any]) -> None:
        """Sends a message together with the next one, at most 5 ms later. A write costs 40 us, a tenth of the cost of a
        slice.
        """
        self._batch += frame(json.dumps(message, separators=(",", ":")))
        if self._batch_timer is None:
            self._batch_timer = asyncio.get_running_loop().call_later(_BATCH_DELAY, self._flush)

    def push(self, text: str, frame: bytes) -> None:
        """Sends the frame of a text that was encoded once for many sockets."""
        self._write(frame)

    def _flush(self) -> None:
        self._batch_timer = None
        if self._batch:
            self._write(b"")

    def _write(self, data: bytes) -> "asyncio.Future[None] | None":
        """Writes bytes. Tornado's write_message is not used, because it creates a task for each message."""
        connection = self.ws_connection
        if connection is None or connection.is_closing() or connection.stream is None:
            return None
        if self._batch:
            data, self._batch = self._batch + data, b""
        try:
            return connection.stream.write(data)
        except tornado.iostream.StreamBufferFullError:
            self.disconnect(OUTBOX_FULL)
        except tornado.iostream.StreamClosedError:
            pass
        return None

    def close(self, code: int | None = None, reason: str | None = None) -> None:
        self._flush()
        super().close(code, reason)

    async def deliver(self, message: str | bytes) -> None:
        """Sends a message and waits until everything is sent. Closes the socket when this takes longer than
        stall_timeout.
        """
        sent = self.send(message)
        if sent is None or sent.done():
            return
        try:
            async with asyncio.timeout(self.context.sockets.stall_timeout):
                await sent
        except TimeoutError:
            self.disconnect(READER_STALLED)

    def reply_error(self, error: WorkError, echoed: dict[str, str] | None = None) -> None:
        """Counts the error and sends it, with the members that identify the client's message."""
        self.services.metrics.refusals.labels(error.code).inc()
        self.send({"type": "error", **(echoed or {}), **error.as_dict(), "message": redact_tokens(error.message)})

    def disconnect(self, disconnect: Disconnect) -> None:
        """Closes the socket after earlier messages. Tornado drops what a client has not read within five seconds."""
        if disconnect.cause:
            self.services.metrics.refusals.labels(disconnect.cause).inc()
        self.close(disconnect.code, disconnect.reason)

    def on_close(self) -> None:
        self._is_closed = True
        self.context.connections.remove(self)
        if self._is_open:
            self.closed()
        for timer in self._timers:
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    def on_finish(self) -> None:
        # A connection that was added and whose handshake then failed gets no on_close.
        if self.get_status() != 101:
            self.context.connections.remove(self)
