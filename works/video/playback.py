"""Plays a file in its child process for one viewer, who can pause, resume, seek and change the speed."""

import threading
import time
from typing import Any

from works.errors import WorkError
from works.video.frame_sender import FrameSender, Shot
from works.video.media_reader import MediaReader, open_media

# A playback that is more than this many seconds late continues from the current picture instead of catching up.
_MOST_BEHIND = 0.5


class CommandQueue:
    """Passes commands from one thread to another and keeps only the newest command of each kind.

    After a hundred seeks in a row, only the last seek is done.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._commands: dict[str, Any] = {}

    def put(self, commands: dict[str, Any]) -> None:
        with self._changed:
            self._commands |= commands
            self._changed.notify()

    def take(self, seconds: float) -> dict[str, Any]:
        """Returns the commands that were received, after waiting at most ``seconds`` for the first command."""
        with self._changed:
            if not self._commands and seconds > 0:
                self._changed.wait(seconds)
            commands, self._commands = self._commands, {}
            return commands


def run(sender: FrameSender, parameters: dict[str, Any], commands: CommandQueue) -> None:
    """Opens the file and plays it until the process is killed. Reports the reason when the file cannot be opened."""
    try:
        reader = open_media(parameters["url"], parameters["picture_seconds"], lambda: sender.report(number=0))
        playback = Playback(sender, reader, parameters)
        sender.report(opened={"size": reader.size, "fps": reader.fps, "duration": reader.duration})
        while True:
            received = commands.take(playback.step(parameters["beat"]))
            if received:
                playback.apply(received)
    except WorkError as error:
        sender.report(failed={"code": error.code, "message": error.message, "temporary": error.temporary})
    except OSError as error:
        sender.report(
            failed={"code": "not_found", "message": f"the file cannot be read: {error.strerror}", "temporary": True}
        )


class Playback:
    """The state of one playback. ``step`` does the work that is due and returns the seconds until more work is due."""

    def __init__(self, sender: FrameSender, reader: MediaReader, parameters: dict[str, Any]) -> None:
        self._sender, self._reader = sender, reader
        self._speed: float = parameters["speed"]
        self._paused: bool = parameters["paused"]
        self._next: float | None = None  # the time of the picture that was grabbed and not sent yet
        self._at_end = False  # if true, ``_next`` is the time of the end
        self._number, self._ended, self._reported_at = 0, False, 0.0
        self._show_next_now = True  # the next picture is sent even if it is not due yet or playback is paused
        self._anchor = 0.0, 0.0  # a time in the file, and the time of the monotonic clock at which it is shown
        if parameters["position"]:
            reader.seek(parameters["position"])

    @property
    def _is_running(self) -> bool:
        return not (self._paused or self._ended) and bool(self._sender.wants)

    def apply(self, commands: dict[str, Any]) -> None:
        if self._is_running:
            self._set_clock(self._anchor[0] + (time.monotonic() - self._anchor[1]) * self._speed)
        if "want" in commands:
            self._sender.set_wants(commands["want"])
        if "paused" in commands:
            self._paused = commands["paused"]
            if self._ended and not self._paused:
                commands.setdefault("seek", 0.0)
        if "speed" in commands:
            self._speed = commands["speed"]
        if "seek" in commands:
            self._reader.seek(commands["seek"])
            self._next, self._ended, self._at_end, self._show_next_now = None, False, False, True
            self._sender.report(sought=commands["seek"], number=self._number)
        self._set_clock(self._anchor[0])

    def _set_clock(self, at: float) -> None:
        self._anchor = at, time.monotonic()

    def step(self, beat: float) -> float:
        if time.monotonic() - self._reported_at >= beat:
            self._reported_at = time.monotonic()
            self._sender.report(number=self._number)
        if not (self._is_running or (self._show_next_now and self._sender.wants and not self._ended)):
            return beat
        at = self._next = self._advance() if self._next is None else self._next
        from_file, from_clock = self._anchor
        wait = from_clock + (at - from_file) / self._speed - time.monotonic()
        if self._show_next_now or wait < -_MOST_BEHIND:
            self._set_clock(at)
        elif wait > 0:
            return min(wait, beat)
        self._show(at)
        return 0.0

    def _advance(self) -> float:
        """Returns the time of the next picture, or the time of the end."""
        at = self._reader.advance()
        if at is None:
            self._at_end = True
            return max(self._reader.duration or 0.0, self._anchor[0])
        self._number += 1
        return at

    def _show(self, at: float) -> None:
        self._next = None
        if self._at_end:
            self._ended, self._show_next_now = True, False
            return self._sender.report(ended=True, number=self._number)
        now = time.monotonic()
        # The last picture is sent regardless of the rate, because no other picture follows it.
        is_last = bool(
            self._reader.duration and self._reader.fps and at > self._reader.duration - 1.5 / self._reader.fps
        )
        wants = frozenset(self._sender.wants) if self._show_next_now or is_last else self._sender.due(now)
        image = self._reader.picture() if wants else None
        if image is not None:
            self._sender.send_frame(Shot(self._number, at, int(time.time() * 1000), image), wants)
            self._show_next_now = False
