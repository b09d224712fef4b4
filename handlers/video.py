"""/ws/video: cameras and recordings, the newest frame first (sluice.v2). docs/video.md tells it all.

Frames wait in their watches, one in each, and go out in turn whenever the socket has drained.
"""

import asyncio
import json
import socket
import time
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from handlers.core.auth import Scope
from handlers.core.disconnects import READER_STALLED
from handlers.core.framing import frame, frame_packed, pack
from handlers.core.websocket import SUBPROTOCOL, BaseWebSocketHandler, Message
from works.errors import Busy, WorkError
from works.imaging import actions
from works.video import WatchRequest
from works.video.frame import Frame
from works.video.source import Source
from works.video.watch import Watch

_RETRY_AFTER = 1000  # milliseconds
# Bytes that the system holds back unsent before it says that it has enough: what waits there is not replaced by newer
# frames. Left to itself it takes megabytes, seconds of video.
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
    """``pause``, ``play``, ``stop``."""

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
    """A watch as its client knows it: by which name, how it is written, how many frames are on their way."""

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
        """That frame was shown, and so was every one before it or never will be."""
        self._unseen = [each for each in self._unseen if each > seq]

    def written(self, watch: Watch, shot: Frame) -> bytes:
        """The picture as what goes over the wire."""
        if self._window is not None:
            self._unseen.append(shot.seq)
        own = json.dumps({"type": "frame", "watch": self.name, "dropped": watch.dropped}, separators=(",", ":"))
        header = f"{own[:-1]},{shot.members}"
        if self._text:
            return frame(f'{header},"jpeg":"{shot.base64}"}}')
        return frame_packed(header + "}", shot.jpeg)


class VideoWebSocket(BaseWebSocketHandler):
    scope: ClassVar[Scope] = "video"
    description = f"It speaks {SUBPROTOCOL}: watch cameras and recordings; docs/video.md tells it all."
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
        self._snapshots = 0  # those under way
        self._ready: dict[View, None] = {}  # those whose frame may be sent, in turn
        self._sent: asyncio.Future[None] | None = None
        self._stall: asyncio.TimerHandle | None = None
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
                **self._listed(),
                "actions": actions.offered(),
            }
        )

    def _listed(self) -> dict[str, Any]:
        """With the time by the clock of ``captured_at``: a page's own may be another."""
        sources = self.services.video.list_sources(self.user.name, self.user.scopes)
        return {"now": int(time.time() * 1000), "sources": sources}

    def on_sources(self, message: Sources, payload: memoryview) -> None:
        self.send({"type": "sources", **self._listed()})

    def on_watch(self, message: WatchMessage, payload: memoryview) -> None:
        most = self.context.video.video_watches
        if message.watch in self._views:
            raise WorkError("bad_message", f"watch: {message.watch!r} is watching already; stop it first")
        if len(self._views) >= most:
            raise Busy(f"a socket has at most {most} watches (video_watches)", _RETRY_AFTER)
        self._views[message.watch] = view = View(message)
        view.opening = self.spawn(self._watch(view, message))

    async def _watch(self, view: View, message: WatchMessage) -> None:
        def ready() -> None:
            if view.is_ready:
                self._ready[view] = None
                self._pump()

        def tell(told: dict[str, Any]) -> None:
            self._tell(view, told)

        try:
            options = actions.check(message.action, message.options) if message.action else {}
            source, wish = self._wish(message, message.fps)
            text = json.dumps(options, sort_keys=True)
            wish = replace(wish, action=message.action, options=text, paused=message.paused)
            watch = view.watch = await self.services.video.watch(source, wish, ready, tell)
            # A file takes its time to open, and the token may be another by now.
            self.services.video.find(source.name, self.user.name, self.user.scopes)
        except WorkError as error:
            del self._views[view.name]
            if view.watch:
                view.watch.close()
            return self.reply_error(error, {"watch": view.name})
        width, quality = watch.size
        given = {"kind": source.kind, "shared": source.kind == "live", "width": width, "quality": quality}
        self.send({"type": "watching", "watch": view.name, "action": message.action, **given, **watch.state()})
        ready()

    def _wish(self, message: WatchMessage | SnapshotMessage, fps: float | None = None) -> tuple[Source, WatchRequest]:
        """Raises WorkError."""
        source = self.services.video.find(message.source, self.user.name, self.user.scopes)
        asked = {"fps": fps, **message.model_dump(include={"width", "quality", "position"})}
        return source, self.services.video.make_request(source, self.user.name, **asked)

    def _tell(self, view: View, told: dict[str, Any]) -> None:
        if told.get("ended") is True:
            self._views.pop(view.name, None)
            self._ready.pop(view, None)
        if told["type"] == "error":
            self.services.metrics.refusals.labels(told["code"]).inc()
        self.send({**told, "watch": view.name})

    def _pump(self) -> None:
        """Sends what is ready until the socket has enough, and goes on when that has drained."""
        while self._ready and (self._sent is None or self._sent.done()):
            view = next(iter(self._ready))
            del self._ready[view]
            shot = view.watch.take() if view.watch else None
            if view.watch and shot:
                self._sent = self._write(view.written(view.watch, shot))
        if self._sent and not self._sent.done() and self._stall is None:
            patience = self.context.sockets.stall_timeout
            self._stall = asyncio.get_running_loop().call_later(patience, self.disconnect, READER_STALLED)
            self._sent.add_done_callback(self._drained)

    def _drained(self, sent: "asyncio.Future[None]") -> None:
        if self._stall:
            self._stall.cancel()
            self._stall = None
        if not sent.cancelled() and sent.exception() is None:
            self._pump()

    def _known(self, message: Named) -> Watch:
        view = self._views.get(message.watch)
        if view is None or view.watch is None:
            raise WorkError("not_found", f"watch: there is no {message.watch!r}, or not yet")
        return view.watch

    def on_pause(self, message: Named, payload: memoryview) -> None:
        self._known(message).pause()

    def on_play(self, message: Named, payload: memoryview) -> None:
        self._known(message).play()

    def on_seek(self, message: Seek, payload: memoryview) -> None:
        self._known(message).seek(message.position)

    def on_speed(self, message: Speed, payload: memoryview) -> None:
        self._known(message).speed(message.factor)

    def on_seen(self, message: Seen, payload: memoryview) -> None:
        self._known(message)
        view = self._views[message.watch]
        view.seen(message.seq)
        if view.is_ready:
            self._ready[view] = None
            self._pump()

    def on_stop(self, message: Named, payload: memoryview) -> None:
        if message.watch not in self._views:
            raise WorkError("not_found", f"watch: there is no {message.watch!r}")
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
                gone = WorkError("forbidden", "the new token may not watch this")
                self._tell(view, {"type": "error", **gone.as_dict(), "ended": True})

    def on_snapshot(self, message: SnapshotMessage, payload: memoryview) -> None:
        most = self.context.video.video_watches
        if self._snapshots >= most:
            raise Busy(f"a socket has at most {most} snapshots under way (video_watches)", _RETRY_AFTER)
        self._snapshots += 1
        self.spawn(self._snapshot(message))

    async def _snapshot(self, message: SnapshotMessage) -> None:
        try:
            shot = await self.services.snapshots.take(*self._wish(message), message.max_age)
        except WorkError as error:
            return self.reply_error(error, {"id": message.id})
        finally:
            self._snapshots -= 1
        own = json.dumps({"type": "snapshot", "id": message.id}, separators=(",", ":"))
        await self.deliver(pack(f"{own[:-1]},{shot.members}}}", shot.jpeg))

    def closed(self) -> None:
        if self._stall:
            self._stall.cancel()
        for view in self._views.values():
            self._stop(view)


routes = [(r"/ws/video", VideoWebSocket)]
