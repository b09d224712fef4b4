"""/ws/images: the client sends slices and receives results in the order in which the reader sees them (sluice.v2).

A slice becomes a Task in the WorkQueue, or is answered ``busy``. Its result or error is an event on the stream of the
session. The connection subscribes to that stream and sends each event, so a lost connection loses no result.
"""

import asyncio
import binascii
import json
from typing import ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.client_message import Message
from handlers.core.disconnects import EVENTS_LOST, EVENTS_UNAVAILABLE, RESUMED_ELSEWHERE
from handlers.core.framing import pack
from handlers.core.slices import SliceEvent, SliceMessage, add_seq, names_file
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler
from works.errors import WorkError
from works.events.broker import PositionLost
from works.imaging import actions
from works.queue.order import Viewport
from works.sessions import Session

# Minimum seconds between two progress messages of a connection.
_PROGRESS_INTERVAL = 0.1


class ViewportMessage(Message):
    type: Literal["viewport"]
    top: float
    height: float = Field(ge=0)
    image: str = Field("", max_length=100)


class CancelMessage(Message):
    type: Literal["cancel"]
    id: str | None = None
    image: str | None = None


class ResumeMessage(Message):
    type: Literal["resume"]
    # The length limit also makes pydantic refuse lone surrogates. The log needs names without them.
    session: str = Field(max_length=100)
    epoch: str = Field(max_length=100)
    after: int = Field(ge=0)


class ImagesWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "images"
    description = (
        f"Send slices of a picture (protocol {SUBPROTOCOL}). The slice nearest to the viewport is processed first. "
        "Each result has a URL. The client module is /static/sluice.js."
    )
    accepts: ClassVar[dict[str, type[Message]]] = {
        "slice": SliceMessage,
        "viewport": ViewportMessage,
        "cancel": CancelMessage,
        "resume": ResumeMessage,
    }
    session: Session

    async def opened(self) -> None:
        self._sending = self._resuming = False
        self._progress_timer: asyncio.TimerHandle | None = None
        self.session = await self.services.sessions.begin(self.user.name, self)
        self.send(
            {
                "type": "hello",
                "session": self.session.id,
                "epoch": self.session.epoch,
                "user": self.user.name,
                "expires_at": self.user.expires_at,
                "limits": self._limits(),
                "actions": actions.offered(),
            }
        )

    def _limits(self) -> dict[str, int]:
        """Returns the limits that a client must know before it sends slices."""
        images, queue = self.context.images, self.context.queue
        return {
            "max_slice_bytes": images.max_slice_bytes,
            "max_pixels": images.max_pixels,
            "session_tasks": queue.session_tasks,
            "session_bytes": queue.session_bytes,
            "messages_per_second": self.context.sockets.messages_per_second,
        }

    def on_slice(self, message: SliceMessage, payload: memoryview) -> None:
        """Submits a slice. Raises WorkError when it is refused, and Busy when too many slices are waiting."""
        if self._resuming:
            raise WorkError("bad_message", "the session is being resumed; wait for 'resumed' before you send slices")
        body = self._payload(message, payload)
        task = message.task(self.session.id, body)
        event = SliceEvent(task, self.base_url, message.respond == "bytes")
        queued = self.session.submit(task, event.encode)
        self._start_sending(after=0)
        self.send_batched({"type": "accepted", "id": message.id, "queued": queued})

    def _payload(self, message: SliceMessage, payload: memoryview) -> bytes | memoryview:
        """Returns the encoded picture, from the payload or from the base64 text in ``data``. Raises WorkError."""
        body: bytes | memoryview = payload
        if message.data is not None:
            if payload:
                raise WorkError("bad_message", "data: the message already has the picture as payload; send it once")
            try:
                body = binascii.a2b_base64(message.data, strict_mode=True)
            except ValueError as error:  # binascii.Error, or a character outside ASCII
                raise WorkError("bad_message", f"data: not valid base64 ({error})") from None
        limit = self.context.images.max_slice_bytes
        if len(body) > limit:
            raise WorkError(
                "too_large", f"the slice has {len(body):,} bytes; at most {limit:,} are accepted (max_slice_bytes)"
            )
        if not body:
            raise WorkError("bad_image", "the payload is empty; send a picture")
        return body

    def on_viewport(self, message: ViewportMessage, payload: memoryview) -> None:
        self.session.rerank(message.image, Viewport(message.top, message.height))

    def on_cancel(self, message: CancelMessage, payload: memoryview) -> None:
        """Cancels one slice, or all slices of a picture. Raises WorkError when no such slice is waiting."""
        if (message.id is None) == (message.image is None):
            raise WorkError("bad_message", "cancel: set either id or image")
        if not self.session.cancel(id=message.id, image=message.image) and message.id is not None:
            raise WorkError("not_found", f"id: there is no waiting slice {message.id[:100]!r}")

    def on_resume(self, message: ResumeMessage, payload: memoryview) -> None:
        """Resumes a session. Raises WorkError when this connection has already sent slices."""
        if self._resuming or self.session.used:
            raise WorkError("bad_message", "resume must be sent once, before the first slice")
        self._resuming = True
        self.spawn(self._resume(message))

    async def _resume(self, message: ResumeMessage) -> None:
        sessions = self.services.sessions
        resumed = await sessions.resume(self.user.name, message.session, message.epoch, message.after, self)
        self._resuming = False
        if resumed is None:
            self.send({"type": "resumed", "recovered": False, "replayed": 0, "pending": []})
            return
        unused, self.session = self.session, resumed
        sessions.release(unused, self, final=True)
        last = await self.services.events.broker.position(resumed.stream)
        replayed = last.offset - message.after
        self.send({"type": "resumed", "recovered": True, "replayed": replayed, "pending": list(resumed.pending)})
        self._start_sending(message.after)

    def taken_over(self) -> None:
        self.disconnect(RESUMED_ELSEWHERE)

    def _start_sending(self, after: int) -> None:
        if not self._sending:
            self._sending = True
            self.spawn(self._send_events(after))

    async def _send_events(self, after: int) -> None:
        """Sends the events of the session's stream, no faster than the client reads them."""
        try:
            async for events in self.services.events.broker.subscribe(self.session.stream, after):
                for event in events:
                    await self.deliver(await self._message(event.offset, event.data))
                self._progress_timer = self._progress_timer or asyncio.get_running_loop().call_later(
                    _PROGRESS_INTERVAL, self._send_progress
                )
        except PositionLost as error:
            self.disconnect(EVENTS_LOST.format(why=error))
        except OSError:
            self.disconnect(EVENTS_UNAVAILABLE)

    async def _message(self, offset: int, event: str) -> str | bytes:
        """Returns the message for a stored event: text, or bytes with the result's file as payload."""
        text = add_seq(event, offset)
        if not names_file(event):
            return text
        header = json.loads(text)
        try:
            payload = await self.services.threads.run(self.services.results.read, header.pop("file"))
        except OSError as error:
            failed = WorkError("not_found", "the result is no longer retained; send the slice again", temporary=True)
            if not isinstance(error, FileNotFoundError):
                failed = WorkError(
                    "internal", f"the result cannot be read now: {error.strerror}; try again", temporary=True
                )
            return json.dumps({"type": "error", "seq": offset, "id": header["id"], **failed.as_dict()})
        if len(payload) > self.context.sockets.outbox // 2:
            large = WorkError(
                "too_large", f"the result has {len(payload):,} bytes, too many for a message; use respond=url"
            )
            return json.dumps({"type": "error", "seq": offset, "id": header["id"], **large.as_dict()})
        return pack(header, payload)

    def _send_progress(self) -> None:
        self._progress_timer = None
        for image, progress in self.session.take_progress():
            counts = {"done": progress.done, "failed": progress.failed, "total": progress.total}
            self.send({"type": "progress", "image": image, **counts})

    def closed(self) -> None:
        if self._progress_timer:
            self._progress_timer.cancel()
        # Codes 1000 and 1001: the client has closed the connection or left the page. After other codes it may
        # reconnect.
        final = self.close_code in (1000, 1001)
        self.services.sessions.release(self.session, self, final=final)


routes = [(r"/ws/images", ImagesWebSocket)]
