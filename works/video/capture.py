"""A Capture is one open source. It kills its child process when the process hangs, and starts another when the source
is lost.

The watches of the capture stay open during that time and receive placeholders.
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

# Seconds before the first retry. The delay doubles with each retry that fails.
_FIRST_RETRY_DELAY = 0.5
# Seconds for a process to start on a busy machine. The watchdog applies after the first report of the process.
_START_TIMEOUT = 30.0
_REASONS = ("unreachable", "no_video", "ended", "crashed")
# The size of a placeholder while the size of the source is not known yet.
_DEFAULT_SIZE = 640, 360


class _Lost(Exception):
    """Raised when the child reports that the source is lost; the argument is the reason."""


class Capture:
    """One open source, with its watches and the child process that reads it.

    ``begin`` starts the capture, ``close`` ends it immediately. The future ``opened`` completes once the source is
    open, or fails with a WorkError when the source cannot be opened. ``on_failed`` is called when the capture has ended
    and will not be retried.
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
        self._loss: dict[str, Any] = {}  # holds reason and retry_ms while the source is lost
        self._properties: dict[str, Any] = {}  # holds size, fps and duration of the source
        self._position, self._paused, self._speed = request.position, request.paused, 1.0
        self._seek_target: float | None = None  # the position of a seek that the child has not reported as done yet
        self._seq = self._number = 0  # the number of the last frame: in all children, and in the current child
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
        """Returns the state of the capture and the known properties of its source, as members of a
        ``state`` message.
        """
        file = {"position": round(self._position, 3), "factor": self._speed} if self.source.kind == "file" else {}
        return {"source": self.source.name, "state": self.state, **self._loss, **self._properties, **file}

    def steer(self, **changes: Any) -> None:
        """Sets ``paused``, ``seek`` (seconds) or ``speed`` of a file, and notifies the watch of the file."""
        self._paused, self._speed = changes.get("paused", self._paused), changes.get("speed", self._speed)
        self._seek_target = changes.get("seek", self._seek_target)
        self._process.send(changes)
        if "seek" in changes or (self.state == "ended" and changes.get("paused") is False):
            return  # the watch is notified once the child has done the seek
        self._set_state(self._playback_state() if self.state in ("playing", "paused") else self.state, **self._loss)

    def update_wants(self) -> None:
        """Sends the child the list of wanted encodings if the list has changed."""
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
                return self._fail(WorkError("crashed", f"the process that reads the file crashed {ATTEMPTS} times"))
            tries = 1 if self._is_open else tries + 1
            longest = min(_FIRST_RETRY_DELAY * 2 ** min(tries - 1, 20), self._settings.video_retry)
            delay = longest * random.uniform(0.5, 1.0)
            log.info("video.source_lost", source=self.source.name, reason=reason, retry_s=round(delay, 1))
            self._set_state("reconnecting", reason=reason, retry_ms=round(delay * 1000))
            self._publish_placeholders()
            await asyncio.sleep(delay)

    async def _run_child(self) -> str:
        """Runs one child until the source is lost, and returns the reason. Raises WorkError when a retry would be
        useless.
        """
        self._process, self._number = CaptureProcess(self._forkserver), 0
        source, watchdog = self.source, self._settings.video_watchdog
        parameters: dict[str, Any] = {"kind": source.kind, "url": source.url, "transport": source.transport}
        parameters |= {"picture_seconds": source.picture_seconds, "position": self._position}
        parameters["beat"] = min(1.0, watchdog / 4)
        try:
            await self._process.open(parameters | self._playback_members())
            # Sends the state of the playback once more: the user may have paused, sought or changed the speed during
            # the start.
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
        """Publishes a placeholder to each feed, in the size of the feed's frames."""
        self._seq += 1
        for feed in self.feeds.all():
            feed.publish(self._placeholder(feed.width))

    def offer_placeholder(self, watch: Watch) -> None:
        """Offers a placeholder to a new watch while the source is lost."""
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
            # Marks the exception as retrieved. Nothing awaits ``opened`` of a live source, and asyncio would log the
            # exception.
            self.opened.exception()
        for watch in list(self.watches):
            watch.close()
            watch.notify({"type": "error", **error.as_dict(), "ended": True})
        self._on_failed(self)

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        """Ends the watches after an unexpected error, so that they do not wait for frames that never arrive."""
        if not task.cancelled() and task.exception():
            log.error("video.capture_failed", source=self.source.name, exc_info=task.exception())
            self._fail(WorkError("internal", "this source failed; the server's log has the details", temporary=True))


def _within(size: list[int] | tuple[int, int], most_width: int) -> tuple[int, int]:
    """Returns (width, height) of a picture scaled down to at most ``most_width`` pixels across.

    ``size`` was sent by a child process and is not trusted, so each side is limited to 1 to 16,384 pixels.
    """
    width, height = max(1, min(int(size[0]), 1 << 14)), max(1, min(int(size[1]), 1 << 14))
    across = min(width, most_width)
    return across, max(1, round(height * across / width))


def _unopened(reason: str, watchdog: float) -> WorkError:
    if reason == "silent":
        return WorkError("timeout", f"the file did not open within {watchdog:g} s (video_watchdog)", temporary=True)
    return WorkError("crashed", "the process that reads the file crashed", temporary=True)
