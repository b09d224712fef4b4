"""A live source in its child: one thread takes frame after frame off it, the other encodes the newest. So a picture
that takes long to encode costs frames, never delay."""

import os
import threading
import time
from typing import Any

import cv2

from works.imaging.pixels import as_image
from works.video.frame_sender import FrameSender, Shot, Want

# Two frames are enough to guess the rate by: so the first picture is there after 0.2 s. The usual ``nobuffer`` would
# throw away what was read for that, the key frame too, and wait for the next: 1.1 s, or 4.2 with one every 4 s.
_LOW_LATENCY = "flags;low_delay|fpsprobesize;2|max_delay;100000"
# The server's watchdog kills what hangs; OpenCV's own patience (30 s, in milliseconds) must only be longer.
_PATIENCE = 24 * 3600 * 1000


def open_capture(url: str, options: str) -> cv2.VideoCapture:
    """``options`` are FFmpeg's, as ``name;value|name;value``. One thread decodes: several hold back a frame each."""
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _PATIENCE, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _PATIENCE]
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def watch(outlet: FrameSender, order: dict[str, Any]) -> None:
    """Shows what comes until nothing does, and says why."""
    url = order["url"]
    if url.startswith("/dev/"):
        capture = cv2.VideoCapture(url, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    else:
        transport = f"|rtsp_transport;{order['transport']}" if url.lower().startswith("rtsp") else ""
        capture = open_capture(url, _LOW_LATENCY + transport)
    if not capture.isOpened():
        return outlet.say(lost="unreachable")
    if not capture.grab():
        return outlet.say(lost="no_video")
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    outlet.say(opened={"size": size, "fps": _frames_a_second(capture)})
    newest = NewestShot()
    threading.Thread(target=_capture, args=(capture, outlet, newest), daemon=True).start()
    told = 0
    while not newest.ended:
        taken = newest.take(order["beat"])
        if taken:
            outlet.show(*taken)
            told = taken[0].number
        elif newest.number > told:
            told = newest.number
            outlet.say(number=told)
    outlet.say(lost="ended", number=newest.number)


def _frames_a_second(capture: cv2.VideoCapture) -> float | None:
    """What the stream says of itself; some say nonsense, such as 90,000."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return round(fps, 3) if 0 < fps <= 1000 else None


def _capture(capture: cv2.VideoCapture, outlet: FrameSender, newest: "NewestShot") -> None:
    """The picture that was grabbed at the opening is the first."""
    number = 1
    while True:
        wants = outlet.due(time.monotonic())
        if wants:
            done, image = capture.retrieve()
            if done:
                pts = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                newest.put(Shot(number, pts, int(time.time() * 1000), as_image(image)), wants)
        newest.number = number
        if not capture.grab():
            return newest.end()
        number += 1


class NewestShot:
    """Room for one picture between two threads, and for whom it is. ``number`` counts those that were captured."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shot: Shot | None = None
        self._wants: frozenset[Want] = frozenset()
        self.number = 0
        self.ended = False

    def put(self, shot: Shot, wants: frozenset[Want]) -> None:
        """In place of one that was not taken; those who waited for that have this."""
        with self._changed:
            self._shot, self._wants = shot, self._wants | wants
            self._changed.notify()

    def take(self, seconds: float) -> tuple[Shot, frozenset[Want]] | None:
        """Waits so long at most; None when nothing came, or nothing will."""
        with self._changed:
            self._changed.wait_for(lambda: self._shot or self.ended, seconds)
            shot, wants = self._shot, self._wants
            self._shot, self._wants = None, frozenset()
            return (shot, wants) if shot else None

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify()
