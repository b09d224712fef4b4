"""Decodes and encodes films, picture by picture, by OpenCV's FFmpeg. Only for a process that may be killed.

What is read may be any MP4, WebM, Matroska or AVI that FFmpeg decodes; what is written is WebM with VP8, which every
browser plays. Of what OpenCV's wheel can write and browsers play, VP8 took 38 ms for a frame of 1280 x 720 and VP9
280; it has no encoder of H.264 and AV1. Sound is not read: OpenCV knows none.
"""

import math
import os
import time
from typing import Any

import cv2
import numpy as np

from works.errors import WorkError
from works.imaging.codec import decode, resize
from works.imaging.image_header import read_header
from works.imaging.pixels import Image, as_image, has_alpha, on_white, size_of, to_bgr

# Seconds after which a search for the next frame to give says how far it is, so that it never looks like a hang.
_SEARCH = 0.5
# A photograph of 1280 x 720, JPEG 95 in and 85 out, keeps 36.9 dB in the film; PNG both ways keeps 38.7, what VP8
# itself keeps, and takes 80 ms instead of 12 each way.
_PARAMETERS = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1]}
# Pictures a second that are believed; WebM without a rate is told as 1,000.
_RATES = (0.1, 240.0)
_USUAL_RATE = 25.0
# Pixels a side that VP8 can hold (RFC 6386, 9.1).
LONGEST_SIDE = 16_383
# And so many that players, OpenCV among them, take it for a picture: a block of VP8.
_SHORTEST_SIDE = 16

ToolAnswer = tuple[dict[str, Any], bytes]


class FilmReader:
    """Gives the frames of a film in order, encoded, those between two seconds, of every ``every`` the first."""

    _capture: cv2.VideoCapture
    _index = -1

    def open(
        self,
        payload: bytes,
        path: str,
        max_pixels: int,
        start: float,
        end: float | None,
        every: int,
        width: int | None,
        suffix: str,
    ) -> ToolAnswer:
        """What the film says of itself: ``width``, ``height`` as given, ``fps``, ``frames``, ``seconds`` (0: unsaid).

        ``width``: frames are made so narrow, never wider. Raises WorkError unsupported_format or too_many_pixels.
        """
        self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise WorkError("unsupported_format", "this is no film that can be read; send MP4 or WebM, whole")
        self._max_pixels, self._start, self._end, self._every = max_pixels, start, end, every
        self._width, self._suffix, self._count = width, suffix, 0
        size = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        self._check(size)
        fps, frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        is_known = math.isfinite(fps) and _RATES[0] <= fps <= _RATES[1]
        fps = fps if is_known else _USUAL_RATE
        frames = int(frames) if is_known and math.isfinite(frames) and 0 < frames < 1 << 40 else 0
        across, down = self._target(size)
        info = {"width": across, "height": down, "fps": fps, "frames": frames, "seconds": frames / fps}
        return info, b""

    def next(self, payload: bytes) -> ToolAnswer:
        """The next frame: ``frame`` (counted from 0), ``at`` in seconds, and its picture. Without ``at``: ask again.

        ``end``: there is none; ``seen`` frames were there, ``last`` seconds is where the last one stood.
        """
        until = time.monotonic() + _SEARCH
        while time.monotonic() < until:
            if not self._capture.grab():
                return {"end": True, "seen": self._index + 1}, b""
            self._index += 1
            at = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if at < self._start:
                continue
            if self._end is not None and at >= self._end:
                return {"end": True, "seen": self._index + 1, "reached": True}, b""
            self._count += 1
            if (self._count - 1) % self._every == 0:
                return {"frame": self._index, "at": at}, self._picture()
        return {"seen": self._index + 1}, b""

    def _picture(self) -> bytes:
        done, frame = self._capture.retrieve()
        if not done:
            raise WorkError("bad_image", f"frame {self._index} cannot be read")
        self._check(size_of(as_image(frame)))
        image = resize(as_image(frame), self._target(size_of(as_image(frame))))
        return cv2.imencode(self._suffix, image, _PARAMETERS[self._suffix])[1].tobytes()

    def _target(self, size: tuple[int, int]) -> tuple[int, int]:
        if self._width is None or self._width >= size[0]:
            return size
        return self._width, max(1, round(size[1] * self._width / size[0]))

    def _check(self, size: tuple[int, int]) -> None:
        width, height = size
        if width * height > self._max_pixels or max(size) > LONGEST_SIDE:
            most = f"at most {self._max_pixels:,} pixels are taken (film_pixels), {LONGEST_SIDE:,} a side"
            raise WorkError("too_many_pixels", f"the film is {width} x {height}; {most}")


class FilmWriter:
    """Writes a WebM. Its size is that of the first picture; others are fitted into it, with black around them."""

    _film: cv2.VideoWriter | None = None
    _last: Image
    _frames = 0

    def write(self, payload: bytes, path: str, fps: float, times: int = 1) -> ToolAnswer:
        """Adds an encoded picture, or without one the last again; ``bytes`` of the file, as far as it is written."""
        if payload:
            header = read_header(payload)
            image = decode(payload, header, header.upright)
            image = on_white(image) if has_alpha(image) else to_bgr(image)
            if self._film is None:
                self._begin(path, fps, size_of(image))
            self._last = fitted(image, self._size)
        assert self._film
        for _ in range(times):
            self._film.write(self._last)
        self._frames += times
        return {"bytes": os.path.getsize(path)}, b""

    def _begin(self, path: str, fps: float, size: tuple[int, int]) -> None:
        if max(size) > LONGEST_SIDE:
            raise WorkError("too_many_pixels", f"the result would be {size[0]} x {size[1]}; ask for a smaller width")
        # Colour is stored for two by two pixels: an odd side loses its last.
        self._size = max(_SHORTEST_SIDE, size[0] & -2), max(_SHORTEST_SIDE, size[1] & -2)
        self._path = path
        self._film = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"VP80"), fps, self._size)
        if not self._film.isOpened():
            raise WorkError("internal", f"no film of {size[0]} x {size[1]} can be written", temporary=True)

    def finish(self, payload: bytes) -> ToolAnswer:
        """The end: ``width``, ``height``, ``frames``. Raises WorkError when the disk did not take all of it."""
        assert self._film
        self._film.release()
        # OpenCV does not tell of a disk that is full; a film whose end was not written does not say how long it is.
        written = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not written.isOpened() or written.get(cv2.CAP_PROP_FRAME_COUNT) < 1:
            raise WorkError("internal", "the film could not be written: is the disk full?", temporary=True)
        return {"width": self._size[0], "height": self._size[1], "frames": self._frames}, b""


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """The picture within ``size`` (width, height): cut by a pixel, or scaled with black beside it."""
    width, height = size_of(image)
    if width - size[0] in (0, 1) and height - size[1] in (0, 1):
        return np.ascontiguousarray(image[: size[1], : size[0]])
    zoom = min(size[0] / width, size[1] / height)
    small = resize(image, (max(1, round(width * zoom)), max(1, round(height * zoom))))
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas
