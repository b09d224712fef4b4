"""GET /video/NAME/snapshot.jpg and /video/NAME/stream.mjpg: for ``<img>``, and for programs that know nothing of us."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tornado.http1connection import HTTP1Connection
from tornado.iostream import StreamClosedError

from handlers.core.disconnects import READER_STALLED, Disconnect
from handlers.core.http import BaseHandler
from handlers.core.refusals import BAD_REQUEST, Refused
from works.errors import WorkError
from works.video.frame import Frame
from works.video.source import Source
from works.video.watch import Watch

_BOUNDARY = "sluice"
# Bytes that the system holds back unsent before it says that it has enough: what waits there is no longer the newest.
_UNSENT = 64 << 10


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    width: int | None = Field(None, ge=16)
    quality: int = Field(80, ge=10, le=95)
    position: float = Field(0.0, ge=0)


class SnapshotQuery(Query):
    max_age: float = Field(10.0, ge=0)


class StreamQuery(Query):
    fps: float | None = Field(None, ge=0.01)


Q = TypeVar("Q", bound=Query)


class VideoHandler(BaseHandler):
    def _asked(self, kind: type[Q]) -> Q:
        given: dict[str, Any] = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise Refused(BAD_REQUEST, faults=f"{str(fault['loc'][0])[:40]}: {fault['msg']}") from None


class Snapshot(VideoHandler):
    async def get(self, name: str) -> None:
        user = await self.authorize("video")
        query = self._asked(SnapshotQuery)
        try:
            source = self.services.video.find(name, user.name, user.scopes)
            wish = self.services.video.make_request(source, user.name, **query.model_dump(exclude={"max_age"}))
            shot = await self.services.snapshots.take(source, wish, query.max_age)
        except WorkError as error:
            raise self.refuse_failed(error) from None
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Age", str(max(0, round(time.time() - shot.captured_at / 1000))))
        self.finish(shot.jpeg)


class MjpegStream(VideoHandler):
    """Counts as a connection of its user: it is closed as one, and ends with its token."""

    user_name = ""

    def prepare(self) -> None:
        self._changed = asyncio.Event()
        self._is_over = False

    def disconnect(self, disconnect: Disconnect) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream; what is on its way is still sent."""
        self._is_over = True
        self._changed.set()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.close()

    async def get(self, name: str) -> None:
        user = await self.authorize("video")
        self.user_name = user.name
        query = self._asked(StreamQuery)
        try:
            self.context.connections.add(self)
        except Refused as error:
            raise self.record_refusal(error) from None
        expiry = asyncio.get_running_loop().call_later(max(user.expires_at - time.time(), 0), self.close)
        try:
            source = self.services.video.find(name, user.name, user.scopes)
            async with self._watching(source, query) as watch:
                await self._send(watch)
        except WorkError as error:
            raise self.refuse_failed(error) from None
        finally:
            expiry.cancel()
            self.context.connections.remove(self)

    @asynccontextmanager
    async def _watching(self, source: Source, query: StreamQuery) -> AsyncIterator[Watch]:
        def tell(told: dict[str, Any]) -> None:
            if told.get("ended") is True or told.get("state") == "ended":
                self.close()

        wish = self.services.video.make_request(source, self.user_name, **query.model_dump())
        watch = await self.services.video.watch(source, wish, self._changed.set, tell)
        try:
            yield watch
        finally:
            watch.close()

    async def _send(self, watch: Watch) -> None:
        """One frame after the other, the newest each time, until this is over; the last that came is sent too."""
        cast(HTTP1Connection, self.request.connection).stream.socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT
        )
        self.set_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        with suppress(StreamClosedError):
            while True:
                shot = watch.take()
                if shot:
                    await self._part(shot)
                elif self._is_over:
                    self.write(f"--{_BOUNDARY}--\r\n")
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()

    async def _part(self, shot: Frame) -> None:
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(shot.jpeg)}\r\n"
        self.write(b"".join((f"{head}X-Captured-At: {shot.captured_at}\r\n\r\n".encode(), shot.jpeg, b"\r\n")))
        try:
            async with asyncio.timeout(self.context.sockets.stall_timeout):
                await self.flush()
        except TimeoutError:
            self.services.metrics.refusals.labels(READER_STALLED.cause).inc()
            cast(HTTP1Connection, self.request.connection).stream.close()
            raise StreamClosedError from None


routes = [
    (r"/video/([A-Za-z0-9._-]{1,64})/snapshot\.jpg", Snapshot),
    (r"/video/([A-Za-z0-9._-]{1,64})/stream\.mjpg", MjpegStream),
]
