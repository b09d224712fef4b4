"""Single pictures of a source.

A snapshot is the newest frame of an open capture if the frame is recent enough. Otherwise the source is opened for it.
"""

import asyncio
import time
from dataclasses import replace

from works.errors import WorkError
from works.video import WatchRequest
from works.video.frame import Frame
from works.video.service import VideoService
from works.video.source import Source
from works.video.watch import Watch

# The number of cached pictures of files, about 100 KB each. The least recently used picture is deleted first.
_CACHE_SIZE = 32


class Snapshots:
    def __init__(self, video: VideoService) -> None:
        self._video = video
        self._cache: dict[tuple[str, int, int, float], Frame] = {}

    async def take(self, source: Source, request: WatchRequest, max_age: float) -> Frame:
        """Returns a frame that was captured at most ``max_age`` seconds ago.

        Raises WorkError when the source cannot be watched, or with code ``timeout`` when it sends no picture in time.
        """
        if (frame := self._find_recent(source, request)) and time.time() - frame.captured_at / 1000 <= max_age:
            return frame
        frame = await self._capture_one(source, replace(request, paused=source.kind == "file"))
        if source.kind == "file":
            self._cache[source.name, request.width, request.quality, request.position] = frame
            if len(self._cache) > _CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
        return frame

    def _find_recent(self, source: Source, request: WatchRequest) -> Frame | None:
        if source.kind == "file":
            key = source.name, request.width, request.quality, request.position
            if frame := self._cache.pop(key, None):
                self._cache[key] = frame
            return frame
        capture = self._video.capture_of(source)
        feed = capture.feeds.find(request.width, request.quality) if capture else None
        return feed.newest if feed and feed.newest and not feed.newest.placeholder else None

    async def _capture_one(self, source: Source, request: WatchRequest) -> Frame:
        found: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        watch: Watch | None = None

        def ready() -> None:
            frame = watch.take() if watch else None
            if frame and not frame.placeholder and not found.done():
                found.set_result(frame)

        timeout = self._video.settings.video_watchdog
        try:
            async with asyncio.timeout(timeout):
                watch = await self._video.watch(source, request, ready, lambda message: None)
                return await found
        except TimeoutError:
            why = f"{source.name} sent no picture within {timeout:g} s (video_watchdog)"
            raise WorkError("timeout", why, temporary=True) from None
        finally:
            if watch:
                watch.close()
