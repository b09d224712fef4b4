"""Reads a live source in its child process: one thread captures frames, the other thread encodes the newest frame.

A picture that takes long to encode therefore reduces the frame rate, but does not add delay.
"""

import os
import threading
import time
from typing import Any

import cv2

from works.imaging.pixels import as_image
from works.video.frame_sender import FrameSender, Shot, Want

# FFmpeg estimates the frame rate from two frames only, so that the first picture is available after 0.2 s. The usual
# flag ``nobuffer`` would discard the frames that were read for the estimate, including the key frame, and wait for the
# next key frame: 1.1 s, or 4.2 s when the stream has a key frame every 4 s.
_LOW_LATENCY = "flags;low_delay|fpsprobesize;2|max_delay;100000"
# The server's watchdog kills a capture that hangs, so OpenCV's own timeouts (30 s by default) are set to one day.
_NEVER_MS = 24 * 3600 * 1000


def open_capture(url: str, options: str) -> cv2.VideoCapture:
    """Opens a source with FFmpeg. ``options`` are FFmpeg's, written as ``name;value|name;value``.

    FFmpeg decodes in a single thread, because every additional thread delays the output by one frame.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _NEVER_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _NEVER_MS]
    return cv2.VideoCapture(url, cv2.CAP_FFMPEG, [*limits, cv2.CAP_PROP_N_THREADS, 1])


def run(sender: FrameSender, parameters: dict[str, Any]) -> None:
    """Sends frames until the source is lost, then reports the reason."""
    url = parameters["url"]
    if url.startswith("/dev/"):
        capture = cv2.VideoCapture(url, cv2.CAP_V4L2)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    else:
        transport = f"|rtsp_transport;{parameters['transport']}" if url.lower().startswith("rtsp") else ""
        capture = open_capture(url, _LOW_LATENCY + transport)
    if not capture.isOpened():
        return sender.report(lost="unreachable")
    if not capture.grab():
        return sender.report(lost="no_video")
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    sender.report(opened={"size": size, "fps": _frames_a_second(capture)})
    newest = NewestShot()
    threading.Thread(target=_capture_frames, args=(capture, sender, newest), daemon=True).start()
    reported = 0
    while not newest.ended:
        taken = newest.take(parameters["beat"])
        if taken:
            sender.send_frame(*taken)
            reported = taken[0].number
        elif newest.number > reported:
            reported = newest.number
            sender.report(number=reported)
    sender.report(lost="ended", number=newest.number)


def _frames_a_second(capture: cv2.VideoCapture) -> float | None:
    """Returns the frame rate that the stream declares, or None when the rate is implausible, such as 90,000."""
    fps = capture.get(cv2.CAP_PROP_FPS)
    return round(fps, 3) if 0 < fps <= 1000 else None


def _capture_frames(capture: cv2.VideoCapture, sender: FrameSender, newest: "NewestShot") -> None:
    """Captures frames in a separate thread. The first frame is the picture that was grabbed when
    the source was opened.
    """
    number = 1
    while True:
        wants = sender.due(time.monotonic())
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
    """A slot that passes one picture, and the feeds that want it, from one thread to another.

    ``number`` is the count of captured pictures.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._shot: Shot | None = None
        self._wants: frozenset[Want] = frozenset()
        self.number = 0
        self.ended = False

    def put(self, shot: Shot, wants: frozenset[Want]) -> None:
        """Puts a picture into the slot. It replaces a picture that was not taken; feeds that wanted the old one get the
        new one.
        """
        with self._changed:
            self._shot, self._wants = shot, self._wants | wants
            self._changed.notify()

    def take(self, seconds: float) -> tuple[Shot, frozenset[Want]] | None:
        """Waits at most ``seconds`` for a picture and takes it.

        Returns None on a timeout or when the source has ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._shot or self.ended, seconds)
            shot, wants = self._shot, self._wants
            self._shot, self._wants = None, frozenset()
            return (shot, wants) if shot else None

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify()
