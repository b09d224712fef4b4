"""All sources and their watches.

A live source is opened for its first viewer, shared by all viewers, and closed ``video_grace`` seconds after the last
viewer has left. A file is opened separately for each viewer.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from functools import partial

from works.errors import Busy, WorkError
from works.metrics import Metrics
from works.queue import WorkQueue
from works.video import WatchRequest
from works.video.capture import Capture
from works.video.capture_child import CaptureSettings
from works.video.feeds import Feeds
from works.video.settings import VideoSettings
from works.video.source import Source, parse_sources
from works.video.watch import Notify, Ready, SourceCounters, Watch, check_position

# Milliseconds. A limit was reached; a retry may succeed, because viewers leave.
_RETRY_AFTER = 5000


class VideoService:
    def __init__(self, settings: VideoSettings, queue: WorkQueue, metrics: Metrics) -> None:
        """Reads the sources from the settings. Raises ValueError when the setting ``sources`` is invalid."""
        self.settings = settings
        self._sources = parse_sources(settings.sources.get_secret_value() if settings.sources else "")
        self._queue = queue
        self._forkserver = CaptureSettings(settings.video_memory, settings.video_width).forkserver()
        self._captures: dict[Capture, str | None] = {}  # maps to the user who opened a file; None for a live source
        self._live: dict[str, Capture] = {}
        self._grace: dict[Capture, asyncio.TimerHandle] = {}
        self._watching: Counter[str] = Counter()
        self._watching_by_user: Counter[tuple[str, str]] = Counter()  # keys are (source, user)
        self._serial = itertools.count()
        self._counts = {
            name: SourceCounters(
                metrics.video_captured.labels(name),
                metrics.video_encoded.labels(name),
                metrics.video_sent.labels(name),
                metrics.video_dropped.labels(name),
            )
            for name in self._sources
        }
        metrics.watch(metrics.video_captures, lambda: len(self._captures))
        metrics.watch(metrics.video_watches, self._watching.total)

    def list_sources(self, user: str, scopes: frozenset[str]) -> list[dict[str, str]]:
        """Returns name, kind and state of each source that this user may watch."""
        return [
            {"name": name, "kind": source.kind, "state": self._live[name].state if name in self._live else "idle"}
            for name, source in self._sources.items()
            if source.open_to(user, scopes)
        ]

    def find(self, name: str, user: str, scopes: frozenset[str]) -> Source:
        """Returns the source with this name.

        Raises the same WorkError for a name that does not exist and for a source that this user may not watch.
        """
        source = self._sources.get(name)
        if source is None or not source.open_to(user, scopes):
            raise WorkError("not_found", f"source: there is no source {name[:64]!r}")
        return source

    def make_request(
        self, source: Source, user: str, *, width: int | None, quality: int, position: float, fps: float | None = None
    ) -> WatchRequest:
        """Returns a request within the limits of the settings. Raises WorkError for a position in a live source."""
        if source.kind == "live" and position:
            raise WorkError("bad_message", f"position: {source.name} is live; only files have a position")
        most = self.settings
        fps, width = min(fps or most.video_fps, most.video_fps), min(width or most.video_width, most.video_width)
        return WatchRequest(user, fps, width, quality, position=position)

    def capture_of(self, source: Source) -> Capture | None:
        """Returns the open capture of a live source, or None."""
        return self._live.get(source.name)

    async def watch(self, source: Source, request: WatchRequest, ready: Ready, notify: Notify) -> Watch:
        """Starts a watch, which receives frames until it is closed. Waits until a file is open.

        Raises:
            Busy: a limit of viewers or captures is reached.
            WorkError: the file cannot be opened, or the position is beyond its end.
        """
        most = self.settings.video_viewers if source.viewers is None else source.viewers
        if self._watching[source.name] >= most:
            raise Busy(
                f"{source.name} has its maximum number of viewers ({most}, video_viewers); retry later", _RETRY_AFTER
            )
        most = self.settings.video_viewers_per_user
        if self._watching_by_user[source.name, request.user] >= most:
            raise Busy(f"you already watch {source.name} {most} times (video_viewers_per_user)", _RETRY_AFTER)
        self._count(source, request.user, 1)
        watch = Watch(request, ready, notify, self._counts[source.name])
        capture = None
        try:
            capture = self._live.get(source.name) or self._open_capture(source, request)
            if source.kind == "file":
                await capture.opened
                check_position(request.position, capture.duration)
            capture.feeds.attach(watch, request)
        except BaseException:
            self._count(source, request.user, -1)
            if capture:
                self._release_capture(capture)
            raise
        watch.capture, watch.release = capture, partial(self._release, watch, capture)
        watch.paused = request.paused and source.kind == "live"
        self._cancel_grace(capture)
        capture.watches[watch] = None
        capture.update_wants()
        capture.offer_placeholder(watch)
        return watch

    def _count(self, source: Source, user: str, more: int) -> None:
        self._watching[source.name] += more
        self._watching_by_user[source.name, user] += more
        if not self._watching_by_user[source.name, user]:
            del self._watching_by_user[source.name, user]

    def _open_capture(self, source: Source, request: WatchRequest) -> Capture:
        owner = request.user if source.kind == "file" else None
        most = self.settings.video_captures_per_user
        if owner is not None and list(self._captures.values()).count(owner) >= most:
            raise Busy(f"you already have {most} recordings open (video_captures_per_user)", _RETRY_AFTER)
        most = self.settings.video_captures
        if len(self._captures) >= most:
            for idle in list(self._grace)[:1]:
                self._close_capture(idle)
        if len(self._captures) >= most:
            raise Busy(f"the server already has {most} captures open (video_captures); retry later", _RETRY_AFTER)
        feeds = Feeds(self.settings, self._queue, f"video/{source.name}/{next(self._serial)}")
        counts = self._counts[source.name]
        capture = Capture(source, request, self.settings, self._forkserver, feeds, counts, self._close_capture)
        self._captures[capture] = owner
        if source.kind == "live":
            self._live[source.name] = capture
        capture.begin()
        return capture

    def _release(self, watch: Watch, capture: Capture) -> None:
        self._count(capture.source, watch.user, -1)
        capture.watches.pop(watch, None)
        capture.feeds.detach(watch)
        capture.update_wants()
        self._release_capture(capture)

    def _release_capture(self, capture: Capture) -> None:
        """Closes a capture without watches: the capture of a file immediately, of a live source
        after ``video_grace``.
        """
        if capture.watches or capture not in self._captures or capture in self._grace:
            return
        if capture.source.kind == "file":
            return self._close_capture(capture)
        later: Callable[..., asyncio.TimerHandle] = asyncio.get_running_loop().call_later
        self._grace[capture] = later(self.settings.video_grace, self._close_capture, capture)

    def _cancel_grace(self, capture: Capture) -> None:
        if timer := self._grace.pop(capture, None):
            timer.cancel()

    def _close_capture(self, capture: Capture) -> None:
        self._cancel_grace(capture)
        self._captures.pop(capture, None)
        if self._live.get(capture.source.name) is capture:
            del self._live[capture.source.name]
        capture.close()

    async def close(self) -> None:
        """Ends all captures. Their watches get no more frames or messages."""
        for capture in list(self._captures):
            self._close_capture(capture)
        await asyncio.to_thread(self._forkserver.close)
