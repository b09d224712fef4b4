"""A Capture is one open source. Its child process is killed when it hangs, and started again when the source is lost.

Its watches stay meanwhile, and get placeholders.
"""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import structlog

from works.errors import CODES, Code, WorkError
from works.processes.forkserver import Forkserver
from works.queue.attempts import ATTEMPTS
from works.video import WatchRequest
from works.video.capture_process import CaptureGone, CaptureProcess
from works.video.feeds import Feeds
from works.video.frame import Frame
from works.video.placeholder import placeholder
from works.video.settings import VideoSettings
from works.video.source import Source
from works.video.watch import SourceCounters, Watch

log = structlog.get_logger()

# Seconds before the first retry, doubled for each that fails.
_FIRST_RETRY_DELAY = 0.5
# Seconds for a process to start, on a busy machine; its first report starts the watchdog.
_START_TIMEOUT = 30.0
_REASONS = ("unreachable", "no_video", "ended", "crashed")
# Of a placeholder when no picture has come yet.
_DEFAULT_SIZE = 640, 360


class _Lost(Exception):
    """The child reports that no more frames will come; the argument is the reason."""


class Capture:
    """``begin`` starts it, ``close`` ends it at once.

    ``opened`` is done once the source is open; for one that cannot be opened it has a WorkError. ``on_failed`` is
    called when no more frames will come.
    """

    def __init__(
        self,
        source: Source,
        request: WatchRequest,
        settings: VideoSettings,
        forkserver: Forkserver,
        feeds: Feeds,
        counts: SourceCounters,
        on_failed: "Callable[[Capture], None]",
    ) -> None:
        self.source, self.feeds = source, feeds
        self.watches: dict[Watch, None] = {}
        self.state = "connecting"
        self.duration: float | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings, self._counts, self._on_failed = settings, counts, on_failed
        self._process = CaptureProcess(forkserver)
        self._forkserver = forkserver
        self._loss: dict[str, Any] = {}  # reason and retry_ms, while the source is lost
        self._properties: dict[str, Any] = {}  # of the source: size, fps, duration
        self._position, self._paused, self._speed = request.position, request.paused, 1.0
        self._seek_target: float | None = None  # until the child has sought: earlier frames are from before
        self._seq = self._number = 0  # of the last frame: over all children, and in this one
        self._is_open = False
        self._sent_wants: list[list[Any]] = []

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._on_end)

    def close(self) -> None:
        self._task.cancel()
        self._process.kill()
        self.feeds.close()
        if not self.opened.done():
            self.opened.cancel()

    def describe(self) -> dict[str, Any]:
        """Its state and what is known of its source: the members of a ``state`` message."""
        file = {"position": round(self._position, 3), "factor": self._speed} if self.source.kind == "file" else {}
        return {"source": self.source.name, "state": self.state, **self._loss, **self._properties, **file}

    def steer(self, **changes: Any) -> None:
        """Sets ``paused``, ``seek`` (seconds) or ``speed`` of a file, and notifies its watch."""
        self._paused, self._speed = changes.get("paused", self._paused), changes.get("speed", self._speed)
        self._seek_target = changes.get("seek", self._seek_target)
        self._process.send(changes)
        if "seek" in changes or (self.state == "ended" and changes.get("paused") is False):
            return  # its watch is notified when the child has done it
        self._set_state(self._playback_state() if self.state in ("playing", "paused") else self.state, **self._loss)

    def update_wants(self) -> None:
        """Sends the child what its feeds want, if that has changed."""
        wants = self.feeds.wants()
        if wants != self._sent_wants:
            self._sent_wants = wants
            self._process.send({"want": wants})

    def _playback_members(self) -> dict[str, Any]:
        members = {"paused": self._paused, "speed": self._speed}
        return members if self._seek_target is None else members | {"seek": self._seek_target}

    def _playback_state(self) -> str:
        return "paused" if self._paused else "playing"

    def _set_state(self, state: str, **loss: Any) -> None:
        self.state, self._loss = state, loss
        for watch in list(self.watches):
            watch.notify({"type": "state", **watch.state()})

    async def _run(self) -> None:
        tries = failures = 0
        while True:
            self._is_open = False
            try:
                reason = await self._run_child()
            except WorkError as error:
                return self._fail(error)
            finally:
                self._process.kill()
            if self.source.kind == "file" and not self.opened.done():
                return self._fail(_unopened(reason, self._settings.video_watchdog))
            failures += 1
            if self.source.kind == "file" and failures >= ATTEMPTS:
                return self._fail(WorkError("crashed", f"the file ended its process {ATTEMPTS} times"))
            tries = 1 if self._is_open else tries + 1
            longest = min(_FIRST_RETRY_DELAY * 2 ** min(tries - 1, 20), self._settings.video_retry)
            delay = longest * random.uniform(0.5, 1.0)
            log.info("video.source_lost", source=self.source.name, reason=reason, retry_s=round(delay, 1))
            self._set_state("reconnecting", reason=reason, retry_ms=round(delay * 1000))
            self._publish_placeholders()
            await asyncio.sleep(delay)

    async def _run_child(self) -> str:
        """Runs one child until the source is lost, and returns why. Raises WorkError when a retry would be useless."""
        self._process, self._number = CaptureProcess(self._forkserver), 0
        source, watchdog = self.source, self._settings.video_watchdog
        parameters: dict[str, Any] = {"kind": source.kind, "url": source.url, "transport": source.transport}
        parameters |= {"picture_seconds": source.picture_seconds, "position": self._position}
        parameters["beat"] = min(1.0, watchdog / 4)
        try:
            await self._process.open(parameters | self._playback_members())
            # Again: it may have been steered meanwhile.
            self._process.send({"want": self._sent_wants} | self._playback_members())
            self._handle(*await self._process.receive(_START_TIMEOUT))
            while True:
                self._handle(*await self._process.receive(watchdog))
        except TimeoutError:
            return "silent"
        except _Lost as lost:
            return str(lost)
        except (CaptureGone, OSError, LookupError, TypeError, ValueError, OverflowError):
            return "crashed"

    def _handle(self, message: dict[str, Any], jpeg: bytes) -> None:
        if (number := int(message.get("number", 0))) > self._number:
            self._counts.captured.inc(number - self._number)
            self._seq, self._number = self._seq + number - self._number, number
        if "frame" in message:
            self._publish(message["frame"], jpeg)
        elif "opened" in message:
            self._open(message["opened"])
        elif "sought" in message:
            for watch in self.watches:
                watch.newest = None
            self._position = float(message["sought"])
            if self._position == self._seek_target:
                self._seek_target = None
            self._set_state(self._playback_state())
        elif "ended" in message:
            self._position = self.duration or self._position
            self._set_state("ended")
        elif "failed" in message:
            failed = message["failed"]
            code: Code = next((code for code in CODES if code == failed["code"]), "internal")
            text = f"{self.source.name}: {str(failed['message'])[:200]}"
            raise WorkError(code, text, temporary=bool(failed["temporary"]))
        elif "lost" in message:
            raise _Lost(message["lost"] if message["lost"] in _REASONS else "crashed")

    def _open(self, properties: dict[str, Any]) -> None:
        self._is_open = True
        self._properties = {name: properties[name] for name in ("size", "fps", "duration") if name in properties}
        self.duration = self._properties.get("duration")
        self._set_state(self._playback_state() if self.source.kind == "file" else "playing")
        if not self.opened.done():
            self.opened.set_result(None)

    def _publish(self, members: dict[str, Any], jpeg: bytes) -> None:
        self._counts.encoded.inc()
        pts, (width, height) = float(members["pts"]), members["size"]
        if self.source.kind == "file":
            self._position = pts
        frame = Frame(self.source.name, self._seq, pts, int(members["captured_at"]), int(width), int(height), jpeg)
        for key in members["keys"]:
            self.feeds.publish(key, frame)

    def _publish_placeholders(self) -> None:
        """Gives each feed a placeholder of the size that its frames had."""
        self._seq += 1
        for feed in self.feeds.all():
            feed.publish(self._placeholder(feed.width))

    def offer_placeholder(self, watch: Watch) -> None:
        """Gives a new watch a placeholder while the source is lost."""
        if self.state == "reconnecting":
            watch.offer(self._placeholder(watch.size[0]))

    def _placeholder(self, across: int) -> Frame:
        now = int(time.time() * 1000)
        width, height, jpeg = placeholder(*_within(self._properties.get("size", _DEFAULT_SIZE), across))
        return Frame(self.source.name, self._seq, None, now, width, height, jpeg, placeholder=True)

    def _fail(self, error: WorkError) -> None:
        """Ends this capture without a retry."""
        if not self.opened.done():
            self.opened.set_exception(error)
            self.opened.exception()  # of a file it is for who opens it; nothing waits for that of a live source
        for watch in list(self.watches):
            watch.close()
            watch.notify({"type": "error", **error.as_dict(), "ended": True})
        self._on_failed(self)

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        """An unexpected error ends its watches: they are not to wait for frames that never come."""
        if not task.cancelled() and task.exception():
            log.error("video.capture_failed", source=self.source.name, exc_info=task.exception())
            self._fail(WorkError("internal", "this source failed; the server's log says why", temporary=True))


def _within(size: list[int] | tuple[int, int], most_width: int) -> tuple[int, int]:
    """``size`` comes from a child and is not trusted. Returns (width, height), at most ``most_width`` across."""
    width, height = max(1, min(int(size[0]), 1 << 14)), max(1, min(int(size[1]), 1 << 14))
    across = min(width, most_width)
    return across, max(1, round(height * across / width))


def _unopened(reason: str, watchdog: float) -> WorkError:
    if reason == "silent":
        return WorkError("timeout", f"the file did not open within {watchdog:g} s (video_watchdog)", temporary=True)
    return WorkError("crashed", "the file ended the process that read it", temporary=True)
