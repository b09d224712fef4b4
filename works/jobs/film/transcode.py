"""Decodes and encodes films, frame by frame, with OpenCV's FFmpeg. It runs only in a process that may be killed.

The input is any MP4, WebM, Matroska or AVI that FFmpeg decodes. The output is WebM with VP8, which every browser plays.
Of the codecs that OpenCV's wheel can write and browsers can play, VP8 took 38 ms for a frame of 1280 x 720 and VP9 280
ms. The wheel has no encoder for H.264 and AV1. OpenCV cannot read sound.
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

# Seconds after which a search for the next frame reports its position, so that it never looks like a hang.
_SEARCH = 0.5
# A photograph of 1280 x 720 has 36.9 dB in the film with JPEG 95 in and 85 out. PNG both ways has 38.7 dB, the limit of
# VP8 itself, but takes 80 ms instead of 12 ms each way.
_PARAMETERS = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 95], ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1]}
# Largest frame rate that is accepted. OpenCV reports 1,000 for a WebM without a rate.
_RATES = (0.1, 240.0)
_USUAL_RATE = 25.0
# Maximum number of pixels of a side in VP8 (RFC 6386, 9.1).
LONGEST_SIDE = 16_383
# Fewest pixels of a side that players, OpenCV included, accept as a picture: a block of VP8.
_SHORTEST_SIDE = 16

ToolAnswer = tuple[dict[str, Any], bytes]


class FilmReader:
    """Returns the encoded frames of a film in order: those between two times, and of every ``every`` frames
    the first.
    """

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
        """Describes the film: ``width`` and ``height`` of the returned frames, ``fps``, ``frames``, ``seconds`` (0 when
        unknown).

        The parameter ``width`` is the largest width of returned frames, which are never enlarged. Raises WorkError
        unsupported_format or too_many_pixels.
        """
        self._capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        if not self._capture.isOpened():
            raise WorkError("unsupported_format", "this is not a readable film; send a complete MP4 or WebM")
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
        """Returns the next frame: ``frame`` (its number from 0), ``at`` in seconds, and its picture.

        An answer without ``at`` means: call again. An answer with ``end`` means that there are no more frames: ``seen``
        is their number, ``last`` the time of the last one in seconds.
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
            most = f"at most {self._max_pixels:,} pixels are accepted (film_pixels), and {LONGEST_SIDE:,} per side"
            raise WorkError("too_many_pixels", f"the film is {width} x {height}; {most}")


class FilmWriter:
    """Writes a WebM file. Its size is that of the first picture. Other pictures are fitted into it, with
    black borders.
    """

    _film: cv2.VideoWriter | None = None
    _last: Image
    _frames = 0

    def write(self, payload: bytes, path: str, fps: float, times: int = 1) -> ToolAnswer:
        """Adds an encoded picture, or repeats the last one. Returns the ``bytes`` of the file so far."""
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
            raise WorkError("too_many_pixels", f"the result would be {size[0]} x {size[1]}; set a smaller width")
        # VP8 stores colour for blocks of 2 x 2 pixels, so an odd side loses its last row or column.
        self._size = max(_SHORTEST_SIDE, size[0] & -2), max(_SHORTEST_SIDE, size[1] & -2)
        self._path = path
        self._film = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"VP80"), fps, self._size)
        if not self._film.isOpened():
            raise WorkError("internal", f"a film of {size[0]} x {size[1]} cannot be written", temporary=True)

    def finish(self, payload: bytes) -> ToolAnswer:
        """Ends the file. Returns ``width``, ``height`` and ``frames``. Raises WorkError when the disk is full."""
        assert self._film
        self._film.release()
        # OpenCV does not report a full disk. But a film whose end was not written has no duration.
        written = cv2.VideoCapture(self._path, cv2.CAP_FFMPEG)
        if not written.isOpened() or written.get(cv2.CAP_PROP_FRAME_COUNT) < 1:
            raise WorkError("internal", "the film could not be written; the disk may be full", temporary=True)
        return {"width": self._size[0], "height": self._size[1], "frames": self._frames}, b""


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """Returns the picture in ``size`` (width, height): cut by a pixel, or scaled with black borders."""
    width, height = size_of(image)
    if width - size[0] in (0, 1) and height - size[1] in (0, 1):
        return np.ascontiguousarray(image[: size[1], : size[0]])
    zoom = min(size[0] / width, size[1] / height)
    small = resize(image, (max(1, round(width * zoom)), max(1, round(height * zoom))))
    left, top = (size[0] - small.shape[1]) // 2, (size[1] - small.shape[0]) // 2
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas
