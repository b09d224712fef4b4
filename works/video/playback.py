"""A file in its child: one viewer's place in it, which plays, pauses, seeks and changes its speed."""

import threading
import time
from typing import Any

from works.errors import WorkError
from works.video.frame_sender import FrameSender, Shot
from works.video.media_reader import MediaReader, open_media

# A cursor that is this far behind, in seconds, goes on from where it is instead of hurrying after the clock.
_MOST_BEHIND = 0.5


class Orders:
    """The newest of each order, left by one thread for the other: a hundred seeks in a row are one."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._orders: dict[str, Any] = {}

    def put(self, orders: dict[str, Any]) -> None:
        with self._changed:
            self._orders |= orders
            self._changed.notify()

    def take(self, seconds: float) -> dict[str, Any]:
        """What was ordered, waited for so long at most."""
        with self._changed:
            if not self._orders and seconds > 0:
                self._changed.wait(seconds)
            orders, self._orders = self._orders, {}
            return orders


def play(outlet: FrameSender, order: dict[str, Any], orders: Orders) -> None:
    """Opens the file and shows it until the process is ended."""
    try:
        reel = open_media(order["url"], order["picture_seconds"], lambda: outlet.say(number=0))
        cursor = Playback(outlet, reel, order)
        outlet.say(opened={"size": reel.size, "fps": reel.fps, "duration": reel.duration})
        while True:
            given = orders.take(cursor.step(order["beat"]))
            if given:
                cursor.obey(given)
    except WorkError as error:
        outlet.say(failed={"code": error.code, "message": error.message, "temporary": error.temporary})
    except OSError as error:
        outlet.say(failed={"code": "not_found", "message": f"its file: {error.strerror}", "temporary": True})


class Playback:
    """``step`` does what is due and says how long there is nothing to do."""

    def __init__(self, outlet: FrameSender, reel: MediaReader, order: dict[str, Any]) -> None:
        self._outlet, self._reel = outlet, reel
        self._speed: float = order["speed"]
        self._paused: bool = order["paused"]
        self._next: float | None = None  # the time of the picture that is grabbed and not yet shown
        self._no_more = False  # ``_next`` is the end instead
        self._number, self._ended, self._said = 0, False, 0.0
        self._at_once = True  # the next picture is shown whatever the clock says, and paused or not
        self._anchor = 0.0, 0.0  # this time of the file stands at this moment of the clock
        if order["position"]:
            reel.seek(order["position"])

    @property
    def _runs(self) -> bool:
        return not (self._paused or self._ended) and bool(self._outlet.wants)

    def obey(self, orders: dict[str, Any]) -> None:
        if self._runs:
            self._set_clock(self._anchor[0] + (time.monotonic() - self._anchor[1]) * self._speed)
        if "want" in orders:
            self._outlet.order(orders["want"])
        if "paused" in orders:
            self._paused = orders["paused"]
            if self._ended and not self._paused:
                orders.setdefault("seek", 0.0)
        if "speed" in orders:
            self._speed = orders["speed"]
        if "seek" in orders:
            self._reel.seek(orders["seek"])
            self._next, self._ended, self._no_more, self._at_once = None, False, False, True
            self._outlet.say(sought=orders["seek"], number=self._number)
        self._set_clock(self._anchor[0])

    def _set_clock(self, at: float) -> None:
        self._anchor = at, time.monotonic()

    def step(self, beat: float) -> float:
        if time.monotonic() - self._said >= beat:
            self._said = time.monotonic()
            self._outlet.say(number=self._number)
        if not (self._runs or (self._at_once and self._outlet.wants and not self._ended)):
            return beat
        at = self._next = self._advance() if self._next is None else self._next
        from_file, from_clock = self._anchor
        wait = from_clock + (at - from_file) / self._speed - time.monotonic()
        if self._at_once or wait < -_MOST_BEHIND:
            self._set_clock(at)
        elif wait > 0:
            return min(wait, beat)
        self._show(at)
        return 0.0

    def _advance(self) -> float:
        """The time of the next picture, or of the end."""
        at = self._reel.advance()
        if at is None:
            self._no_more = True
            return max(self._reel.duration or 0.0, self._anchor[0])
        self._number += 1
        return at

    def _show(self, at: float) -> None:
        self._next = None
        if self._no_more:
            self._ended, self._at_once = True, False
            return self._outlet.say(ended=True, number=self._number)
        now = time.monotonic()
        # The last picture is never left out for the sake of the rate: nothing comes after it.
        is_last = bool(self._reel.duration and self._reel.fps and at > self._reel.duration - 1.5 / self._reel.fps)
        wants = frozenset(self._outlet.wants) if self._at_once or is_last else self._outlet.due(now)
        image = self._reel.picture() if wants else None
        if image is not None:
            self._outlet.show(Shot(self._number, at, int(time.time() * 1000), image), wants)
            self._at_once = False
