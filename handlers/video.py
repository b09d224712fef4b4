"""The WebSocket /ws/video: cameras and recordings over sluice.v2. docs/video.md describes the messages.

Each watch holds only its newest frame. The frames of all watches are sent in turn whenever the socket can accept data.
"""

import asyncio
import json
import socket
import time
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.client_message import Message
from handlers.core.disconnects import READER_STALLED
from handlers.core.framing import frame, frame_packed, pack
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler
from works.errors import Busy, WorkError
from works.imaging import actions
from works.video import WatchRequest
from works.video.frame import Frame
from works.video.source import Source
from works.video.watch import Watch

_RETRY_AFTER = 1000  # milliseconds
# Unsent bytes that the kernel accepts (TCP_NOTSENT_LOWAT). Frames in the kernel's buffer are not replaced by newer
# frames. Without the option the kernel accepts megabytes, which is seconds of video.
_UNSENT = 64 << 10

Name = Field(min_length=1, max_length=100)
SourceName = Field(min_length=1, max_length=64)
Quality = Field(80, ge=10, le=95)
Width = Field(None, ge=16)
Position = Field(0.0, ge=0)


class Sources(Message):
    type: Literal["sources"]


class WatchMessage(Message):
    type: Literal["watch"]
    watch: str = Name
    source: str = SourceName
    fps: float | None = Field(None, ge=0.01)
    width: int | None = Width
    quality: int = Quality
    action: str = ""
    options: dict[str, Any] = Field(default_factory=dict)
    position: float = Position
    paused: bool = False
    encoding: Literal["binary", "base64"] = "binary"
    window: int | None = Field(None, ge=1, le=100)


class Named(Message):
    """A message about an existing watch: ``pause``, ``play`` or ``stop``."""

    watch: str = Name


class Seek(Named):
    position: float = Field(ge=0)


class Speed(Named):
    factor: float = Field(ge=0.1, le=16)


class Seen(Named):
    seq: int = Field(ge=0)


class SnapshotMessage(Message):
    type: Literal["snapshot"]
    id: str = Name
    source: str = SourceName
    width: int | None = Width
    quality: int = Quality
    position: float = Position
    max_age: float = Field(10, ge=0)


class View:
    """One watch of this connection: the client's name for it, its encoding, and the sent frames
    that are not yet shown.
    """

    def __init__(self, message: WatchMessage) -> None:
        self.name = message.watch
        self.watch: Watch | None = None
        self.opening: asyncio.Task[None] | None = None
        self._text = message.encoding == "base64"
        self._window = message.window
        self._unseen: list[int] = []

    @property
    def is_ready(self) -> bool:
        has_room = self._window is None or len(self._unseen) < self._window
        return has_room and self.watch is not None and self.watch.newest is not None

    def seen(self, seq: int) -> None:
        """Records that the client has shown the frame ``seq``, or skipped it; it will not show
        earlier frames any more.
        """
        self._unseen = [each for each in self._unseen if each > seq]

    def encode(self, watch: Watch, picture: Frame) -> bytes:
        """Returns the WebSocket frame of a ``frame`` message with the picture."""
        if self._window is not None:
            self._unseen.append(picture.seq)
        own = json.dumps({"type": "frame", "watch": self.name, "dropped": watch.dropped}, separators=(",", ":"))
        header = f"{own[:-1]},{picture.members}"
        if self._text:
            return frame(f'{header},"jpeg":"{picture.base64}"}}')
        return frame_packed(header + "}", picture.jpeg)


class VideoWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "video"
    description = f"Watches cameras and recordings over {SUBPROTOCOL}. docs/video.md describes the messages."
    accepts: ClassVar[dict[str, type[Message]]] = {
        "sources": Sources,
        "watch": WatchMessage,
        "pause": Named,
        "play": Named,
        "stop": Named,
        "seek": Seek,
        "speed": Speed,
        "seen": Seen,
        "snapshot": SnapshotMessage,
    }
    echoed_members: ClassVar[tuple[str, ...]] = ("watch", "id")

    async def opened(self) -> None:
        self._views: dict[str, View] = {}
        self._snapshots = 0  # the number of snapshot requests that are not answered yet
        self._ready: dict[View, None] = {}  # the views that have a frame to send, in sending order
        self._sent: asyncio.Future[None] | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        if self.ws_connection and self.ws_connection.stream:
            self.ws_connection.stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)
        bounds = self.services.video.settings
        limits = {"video_width": bounds.video_width, "video_fps": bounds.video_fps}
        self.send(
            {
                "type": "hello",
                "user": self.user.name,
                "expires_at": self.user.expires_at,
                "limits": {"video_watches": self.context.video.video_watches, **limits},
                **self._sources(),
                "actions": actions.offered(),
            }
        )

    def _sources(self) -> dict[str, Any]:
        """Returns the sources that the user may watch, and the server's time.

        ``captured_at`` is measured by the same clock, which may differ from the clock of the client's page.
        """
        sources = self.services.video.list_sources(self.user.name, self.user.scopes)
        return {"now": int(time.time() * 1000), "sources": sources}

    def on_sources(self, message: Sources, payload: memoryview) -> None:
        self.send({"type": "sources", **self._sources()})

    def on_watch(self, message: WatchMessage, payload: memoryview) -> None:
        """Opens a watch in the background.

        Raises:
            WorkError: the name of the watch is in use.
            Busy: the socket has too many watches.
        """
        limit = self.context.video.video_watches
        if message.watch in self._views:
            raise WorkError("bad_message", f"watch: the name {message.watch!r} is in use; stop that watch first")
        if len(self._views) >= limit:
            raise Busy(f"at most {limit} watches per socket (video_watches)", _RETRY_AFTER)
        self._views[message.watch] = view = View(message)
        view.opening = self.spawn(self._watch(view, message))

    async def _watch(self, view: View, message: WatchMessage) -> None:
        def ready() -> None:
            if view.is_ready:
                self._ready[view] = None
                self._send_ready()

        def notify(message: dict[str, Any]) -> None:
            self._send_state(view, message)

        try:
            options = actions.check(message.action, message.options) if message.action else {}
            source, request = self._request(message, message.fps)
            text = json.dumps(options, sort_keys=True)
            request = replace(request, action=message.action, options=text, paused=message.paused)
            watch = view.watch = await self.services.video.watch(source, request, ready, notify)
            # Opening a file takes time, and the token may have been replaced in that time.
            self.services.video.find(source.name, self.user.name, self.user.scopes)
        except WorkError as error:
            del self._views[view.name]
            if view.watch:
                view.watch.close()
            return self.reply_error(error, {"watch": view.name})
        width, quality = watch.size
        stream = {"kind": source.kind, "shared": source.kind == "live", "width": width, "quality": quality}
        self.send({"type": "watching", "watch": view.name, "action": message.action, **stream, **watch.state()})
        ready()

    def _request(
        self, message: WatchMessage | SnapshotMessage, fps: float | None = None
    ) -> tuple[Source, WatchRequest]:
        """Returns the source and the request of the message. Raises WorkError."""
        source = self.services.video.find(message.source, self.user.name, self.user.scopes)
        options = {"fps": fps, **message.model_dump(include={"width", "quality", "position"})}
        return source, self.services.video.make_request(source, self.user.name, **options)

    def _send_state(self, view: View, message: dict[str, Any]) -> None:
        """Sends a message about a watch to the client. A message with ``ended`` also removes the watch."""
        if message.get("ended") is True:
            self._views.pop(view.name, None)
            self._ready.pop(view, None)
        if message["type"] == "error":
            self.services.metrics.refusals.labels(message["code"]).inc()
        self.send({**message, "watch": view.name})

    def _send_ready(self) -> None:
        """Sends frames until the socket's buffer is full, and continues once the buffer has drained."""
        while self._ready and (self._sent is None or self._sent.done()):
            view = next(iter(self._ready))
            del self._ready[view]
            picture = view.watch.take() if view.watch else None
            if view.watch and picture:
                self._sent = self._write(view.encode(view.watch, picture))
        if self._sent and not self._sent.done() and self._stall_timer is None:
            timeout = self.context.sockets.stall_timeout
            self._stall_timer = asyncio.get_running_loop().call_later(timeout, self.disconnect, READER_STALLED)
            self._sent.add_done_callback(self._on_drained)

    def _on_drained(self, sent: "asyncio.Future[None]") -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None
        if not sent.cancelled() and sent.exception() is None:
            self._send_ready()

    def _find(self, message: Named) -> Watch:
        """Returns the open watch with the name in the message. Raises WorkError when there is none."""
        view = self._views.get(message.watch)
        if view is None or view.watch is None:
            raise WorkError("not_found", f"watch: there is no watch {message.watch!r}, or it is not open yet")
        return view.watch

    def on_pause(self, message: Named, payload: memoryview) -> None:
        self._find(message).pause()

    def on_play(self, message: Named, payload: memoryview) -> None:
        self._find(message).play()

    def on_seek(self, message: Seek, payload: memoryview) -> None:
        self._find(message).seek(message.position)

    def on_speed(self, message: Speed, payload: memoryview) -> None:
        self._find(message).speed(message.factor)

    def on_seen(self, message: Seen, payload: memoryview) -> None:
        self._find(message)
        view = self._views[message.watch]
        view.seen(message.seq)
        if view.is_ready:
            self._ready[view] = None
            self._send_ready()

    def on_stop(self, message: Named, payload: memoryview) -> None:
        """Ends a watch. Raises WorkError when there is no watch with that name."""
        if message.watch not in self._views:
            raise WorkError("not_found", f"watch: there is no watch {message.watch!r}")
        self._stop(self._views.pop(message.watch))
        self.send({"type": "stopped", "watch": message.watch})

    def _stop(self, view: View) -> None:
        self._ready.pop(view, None)
        if view.watch:
            view.watch.close()
        elif view.opening:
            view.opening.cancel()

    async def _renew_token(self, token: str) -> None:
        await super()._renew_token(token)
        for view in list(self._views.values()):
            if view.watch and not view.watch.capture.source.open_to(self.user.name, self.user.scopes):
                self._stop(view)
                error = WorkError("forbidden", "the new token does not allow this source")
                self._send_state(view, {"type": "error", **error.as_dict(), "ended": True})

    def on_snapshot(self, message: SnapshotMessage, payload: memoryview) -> None:
        """Takes a snapshot in the background. Raises Busy when too many snapshots of the socket are in progress."""
        limit = self.context.video.video_watches
        if self._snapshots >= limit:
            raise Busy(f"at most {limit} snapshots at the same time per socket (video_watches)", _RETRY_AFTER)
        self._snapshots += 1
        self.spawn(self._snapshot(message))

    async def _snapshot(self, message: SnapshotMessage) -> None:
        try:
            picture = await self.services.snapshots.take(*self._request(message), message.max_age)
        except WorkError as error:
            return self.reply_error(error, {"id": message.id})
        finally:
            self._snapshots -= 1
        own = json.dumps({"type": "snapshot", "id": message.id}, separators=(",", ":"))
        await self.deliver(pack(f"{own[:-1]},{picture.members}}}", picture.jpeg))

    def closed(self) -> None:
        if self._stall_timer:
            self._stall_timer.cancel()
        for view in self._views.values():
            self._stop(view)


routes = [(r"/ws/video", VideoWebSocket)]
