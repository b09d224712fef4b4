"""Single pictures: from what is being watched when that is young enough, else the source is opened for one."""

import asyncio
import time
from dataclasses import replace

from works.errors import WorkError
from works.video import WatchRequest
from works.video.frame import Frame
from works.video.service import VideoService
from works.video.source import Source
from works.video.watch import Watch

# Pictures out of files that are kept for those who ask again, some 100 KB each; the one longest unasked for goes first.
_KEPT = 32


class Snapshots:
    def __init__(self, video: VideoService) -> None:
        self._video = video
        self._kept: dict[tuple[str, int, int, float], Frame] = {}

    async def take(self, source: Source, wish: WatchRequest, max_age: float) -> Frame:
        """A frame that was captured at most ``max_age`` seconds ago. Raises WorkError, timeout among others."""
        if (frame := self._known(source, wish)) and time.time() - frame.captured_at / 1000 <= max_age:
            return frame
        frame = await self._new(source, replace(wish, paused=source.kind == "file"))
        if source.kind == "file":
            self._kept[source.name, wish.width, wish.quality, wish.position] = frame
            if len(self._kept) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return frame

    def _known(self, source: Source, wish: WatchRequest) -> Frame | None:
        if source.kind == "file":
            key = source.name, wish.width, wish.quality, wish.position
            if frame := self._kept.pop(key, None):
                self._kept[key] = frame
            return frame
        capture = self._video.capture_of(source)
        feed = capture.feeds.find(wish.width, wish.quality) if capture else None
        return feed.newest if feed and feed.newest and not feed.newest.placeholder else None

    async def _new(self, source: Source, wish: WatchRequest) -> Frame:
        found: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        watch: Watch | None = None

        def ready() -> None:
            frame = watch.take() if watch else None
            if frame and not frame.placeholder and not found.done():
                found.set_result(frame)

        patience = self._video.settings.video_watchdog
        try:
            async with asyncio.timeout(patience):
                watch = await self._video.watch(source, wish, ready, lambda told: None)
                return await found
        except TimeoutError:
            why = f"{source.name} has sent no picture within {patience:g} s (video_watchdog)"
            raise WorkError("timeout", why, temporary=True) from None
        finally:
            if watch:
                watch.close()
