"""Serves GET /video/NAME/snapshot.jpg and /video/NAME/stream.mjpg, for ``<img>`` and for programs without sluice.v2."""

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
# Unsent bytes that the kernel accepts (TCP_NOTSENT_LOWAT). Frames in the kernel's buffer are not replaced by newer
# frames.
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
    def _parse_query(self, schema: type[Q]) -> Q:
        """Returns the query parameters. Raises Refused, which names the first wrong parameter."""
        values: dict[str, Any] = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        try:
            return schema.model_validate(values)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            raise Refused(BAD_REQUEST, faults=f"{str(fault['loc'][0])[:40]}: {fault['msg']}") from None


class Snapshot(VideoHandler):
    async def get(self, name: str) -> None:
        """Sends a snapshot. Raises Refused when the request is not allowed or the source cannot be watched."""
        user = await self.authorize("video")
        query = self._parse_query(SnapshotQuery)
        try:
            source = self.services.video.find(name, user.name, user.scopes)
            request = self.services.video.make_request(source, user.name, **query.model_dump(exclude={"max_age"}))
            picture = await self.services.snapshots.take(source, request, query.max_age)
        except WorkError as error:
            raise self.refuse_failed(error) from None
        self.set_header("Content-Type", "image/jpeg")
        self.set_header("Age", str(max(0, round(time.time() - picture.captured_at / 1000))))
        self.finish(picture.jpeg)


class MjpegStream(VideoHandler):
    """A stream of JPEG pictures. It counts as one of the user's connections and ends when the token expires."""

    user_name = ""

    def prepare(self) -> None:
        self._changed = asyncio.Event()
        self._is_ended = False

    def disconnect(self, disconnect: Disconnect) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream after the frame that is being sent."""
        self._is_ended = True
        self._changed.set()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self.close()

    async def get(self, name: str) -> None:
        """Sends the stream. Raises Refused when the request is not allowed or the source cannot be watched."""
        user = await self.authorize("video")
        self.user_name = user.name
        query = self._parse_query(StreamQuery)
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
        def notify(message: dict[str, Any]) -> None:
            if message.get("ended") is True or message.get("state") == "ended":
                self.close()

        request = self.services.video.make_request(source, self.user_name, **query.model_dump())
        watch = await self.services.video.watch(source, request, self._changed.set, notify)
        try:
            yield watch
        finally:
            watch.close()

    async def _send(self, watch: Watch) -> None:
        """Sends the newest frame repeatedly until the stream ends. The last frame is also sent."""
        cast(HTTP1Connection, self.request.connection).stream.socket.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT
        )
        self.set_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        with suppress(StreamClosedError):
            while True:
                picture = watch.take()
                if picture:
                    await self._send_part(picture)
                elif self._is_ended:
                    self.write(f"--{_BOUNDARY}--\r\n")
                    return
                else:
                    self._changed.clear()
                    await self._changed.wait()

    async def _send_part(self, picture: Frame) -> None:
        head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture.jpeg)}\r\n"
        self.write(b"".join((f"{head}X-Captured-At: {picture.captured_at}\r\n\r\n".encode(), picture.jpeg, b"\r\n")))
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
