"""A Capture is one open source: its child, which is killed when it hangs and tried again when it is lost, and what
comes of it. Its viewers stay meanwhile."""

import asyncio
import random
import time
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

# Seconds before the first new try, doubled for each that fails.
_FIRST_RETRY = 0.5
# Seconds for a process to be made, on a machine that is busy; it then says so, and the watchdog's time begins.
_START = 30.0
_REASONS = ("unreachable", "no_video", "ended", "crashed")
# The shape of a placeholder when no picture has come yet.
_SIZE = 640, 360


class _Lost(Exception):
    """The child says that no frame will come; its argument is the reason."""


class Capture:
    """``begin`` starts it, ``close`` ends it at once. ``opened`` ends when a file is open, or in a WorkError."""

    def __init__(
        self,
        source: Source,
        wish: WatchRequest,
        settings: VideoSettings,
        forkserver: Forkserver,
        feeds: Feeds,
        counts: SourceCounters,
    ) -> None:
        self.source, self.feeds = source, feeds
        self.watches: dict[Watch, None] = {}
        self.state = "connecting"
        self.duration: float | None = None
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._settings, self._counts = settings, counts
        self._process = CaptureProcess(forkserver)
        self._forkserver = forkserver
        self._why: dict[str, Any] = {}  # of being lost: reason, retry_ms
        self._facts: dict[str, Any] = {}  # of the source: size, fps, duration
        self._position, self._paused, self._speed = wish.position, wish.paused, 1.0
        self._goal: float | None = None  # sought, and not there yet: what comes is still from before
        self._seq = self._number = 0  # the last frame's; the number of the last that this child has captured
        self._is_open = False
        self._sent_wants: list[list[Any]] = []

    def begin(self) -> None:
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_report)

    def close(self) -> None:
        self._task.cancel()
        self._process.kill()
        self.feeds.close()
        if not self.opened.done():
            self.opened.cancel()

    def describe(self) -> dict[str, Any]:
        """Its state and what is known of its source: the members of a ``state`` message."""
        file = {"position": round(self._position, 3), "factor": self._speed} if self.source.kind == "file" else {}
        return {"source": self.source.name, "state": self.state, **self._why, **self._facts, **file}

    def steer(self, **orders: Any) -> None:
        """For the cursor of a file: ``paused``, ``seek`` (seconds), ``speed``. Its viewer is told."""
        self._paused, self._speed = orders.get("paused", self._paused), orders.get("speed", self._speed)
        self._goal = orders.get("seek", self._goal)
        self._process.send(orders)
        if "seek" in orders or (self.state == "ended" and orders.get("paused") is False):
            return  # told when the child has done it
        self._enter(self._moving() if self.state in ("playing", "paused") else self.state, **self._why)

    def update_wants(self) -> None:
        """Sends the child what its feeds want, if that has changed."""
        wants = self.feeds.wants()
        if wants != self._sent_wants:
            self._sent_wants = wants
            self._process.send({"want": wants})

    def _motion(self) -> dict[str, Any]:
        motion = {"paused": self._paused, "speed": self._speed}
        return motion if self._goal is None else motion | {"seek": self._goal}

    def _moving(self) -> str:
        return "paused" if self._paused else "playing"

    def _enter(self, state: str, **why: Any) -> None:
        self.state, self._why = state, why
        for watch in list(self.watches):
            watch.tell({"type": "state", **watch.state()})

    async def _run(self) -> None:
        tries = losses = 0
        while True:
            self._is_open = False
            try:
                reason = await self._once()
            except WorkError as error:
                return self._fail(error)
            finally:
                self._process.kill()
            if self.source.kind == "file" and not self.opened.done():
                return self._fail(_unopened(reason, self._settings.video_watchdog))
            losses += 1
            if self.source.kind == "file" and losses >= ATTEMPTS:
                return self._fail(WorkError("crashed", f"the file ended its process {ATTEMPTS} times"))
            tries = 1 if self._is_open else tries + 1
            delay = min(_FIRST_RETRY * 2 ** min(tries - 1, 20), self._settings.video_retry) * random.uniform(0.5, 1.0)
            log.info("video", source=self.source.name, lost=reason, retry_s=round(delay, 1))
            self._enter("reconnecting", reason=reason, retry_ms=round(delay * 1000))
            self._stand_in()
            await asyncio.sleep(delay)

    async def _once(self) -> str:
        """One child's life: why it was lost. Raises WorkError when trying again would be of no use."""
        self._process, self._number = CaptureProcess(self._forkserver), 0
        source, patience = self.source, self._settings.video_watchdog
        order = {"kind": source.kind, "url": source.url, "transport": source.transport, "beat": min(1.0, patience / 4)}
        order |= {"picture_seconds": source.picture_seconds, "position": self._position}
        try:
            await self._process.open(order | self._motion())
            # Once more: it may have been steered meanwhile.
            self._process.send({"want": self._sent_wants} | self._motion())
            self._hear(*await self._process.receive(_START))
            while True:
                self._hear(*await self._process.receive(patience))
        except TimeoutError:
            return "silent"
        except _Lost as lost:
            return str(lost)
        except (CaptureGone, OSError, LookupError, TypeError, ValueError, OverflowError):
            return "crashed"

    def _hear(self, message: dict[str, Any], jpeg: bytes) -> None:
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
            if self._position == self._goal:
                self._goal = None
            self._enter(self._moving())
        elif "ended" in message:
            self._position = self.duration or self._position
            self._enter("ended")
        elif "failed" in message:
            failed = message["failed"]
            code: Code = next((code for code in CODES if code == failed["code"]), "internal")
            text = f"{self.source.name}: {str(failed['message'])[:200]}"
            raise WorkError(code, text, temporary=bool(failed["temporary"]))
        elif "lost" in message:
            raise _Lost(message["lost"] if message["lost"] in _REASONS else "crashed")

    def _open(self, facts: dict[str, Any]) -> None:
        self._is_open = True
        self._facts = {name: facts[name] for name in ("size", "fps", "duration") if name in facts}
        self.duration = self._facts.get("duration")
        self._enter(self._moving() if self.source.kind == "file" else "playing")
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

    def _stand_in(self) -> None:
        """Gives each feed a placeholder of the shape that its frames had."""
        self._seq += 1
        for feed in self.feeds.all():
            feed.publish(self._placeholder(feed.width))

    def offer_placeholder(self, watch: Watch) -> None:
        """Gives a new watch a placeholder while the source is lost."""
        if self.state == "reconnecting":
            watch.offer(self._placeholder(watch.size[0]))

    def _placeholder(self, across: int) -> Frame:
        now = int(time.time() * 1000)
        width, height, jpeg = placeholder(*_within(self._facts.get("size", _SIZE), across))
        return Frame(self.source.name, self._seq, None, now, width, height, jpeg, placeholder=True)

    def _fail(self, error: WorkError) -> None:
        """The end of this capture; nobody is to try again."""
        if not self.opened.done():
            self.opened.set_exception(error)
            return
        for watch in list(self.watches):
            watch.close()
            watch.tell({"type": "error", **error.as_dict(), "ended": True})


def _report(task: "asyncio.Task[None]") -> None:
    """A capture that ends by a fault of ours must not end in silence."""
    if not task.cancelled() and task.exception():
        log.error("failed", duty="video", exc_info=task.exception())


def _within(size: list[int] | tuple[int, int], most_width: int) -> tuple[int, int]:
    """``size`` is what a child has said."""
    width, height = max(1, min(int(size[0]), 1 << 14)), max(1, min(int(size[1]), 1 << 14))
    across = min(width, most_width)
    return across, max(1, round(height * across / width))


def _unopened(reason: str, patience: float) -> WorkError:
    if reason == "silent":
        return WorkError("timeout", f"the file did not open within {patience:g} s (video_watchdog)", temporary=True)
    return WorkError("crashed", "the file ended the process that read it", temporary=True)
