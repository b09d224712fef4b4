"""Reads recordings: a film, or a folder of films and pictures in sequence. All times are in seconds."""

import os
from pathlib import Path
from typing import Protocol

import cv2

from works.errors import WorkError
from works.imaging.codec import decode
from works.imaging.image_header import read_header
from works.imaging.pipeline import check
from works.imaging.pixels import Image, as_image, has_alpha, on_white
from works.imaging.settings import ImageLimits
from works.video.camera import open_capture

# A recording may refer to other addresses, as playlists do. FFmpeg may open such an address only with the protocols
# that the recording itself needs: files for a file, HTTP and TLS for a web address.
_FROM_FILES, _FROM_WEB = "protocol_whitelist;file", "protocol_whitelist;http,https,tcp,tls,crypto"
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
# At most this many files of a folder are read. Each film is opened once to get its duration, which takes about 5 ms.
_MOST_FILES = 1000
# The last frame may be a little before the end that a film declares. A seek that finds no frame is repeated this many
# seconds earlier.
_SEEK_BACK = (0.0, 0.1, 0.5, 2.0)


# A bare stream (.h264) has no timestamps. The interval between its pictures is then computed from its frame rate, or
# from this rate when the stream declares none.
_UNKNOWN_FPS = 25.0


class MediaReader(Protocol):
    """The interface of a recording that is read picture by picture.

    ``duration`` is None when it is not known. ``size`` is (width, height) of the first picture, in pixels.
    """

    duration: float | None
    fps: float | None
    size: tuple[int, int]

    def advance(self) -> float | None:
        """Moves to the next picture and returns its time in seconds, or None at the end."""

    def picture(self) -> Image | None:
        """Returns the current picture, or None when the picture is damaged."""

    def seek(self, position: float) -> None:
        """Moves so that the next ``advance`` reaches the picture at ``position``."""


class VideoFile:
    """One film. The constructor raises WorkError when the file or address is not a video that can be read."""

    def __init__(self, url: str) -> None:
        self._capture = open_capture(url, _FROM_WEB if "://" in url else _FROM_FILES)
        if not self._capture.isOpened():
            raise WorkError("unsupported_format", "this is not a readable video")
        fps, frames = (self._capture.get(which) for which in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = fps if 0 < fps <= 1000 else None
        self.duration = frames / self.fps if self.fps and frames > 0 else None
        width, height = (
            int(self._capture.get(which)) for which in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        self.size = width, height
        self._grabbed = False
        self._at: float | None = None

    def advance(self) -> float | None:
        if not self._grabbed and not self._capture.grab():
            return None
        self._grabbed = False
        at = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        if at == 0.0 and self._at is not None:
            at = self._at + 1 / (self.fps or _UNKNOWN_FPS)
        self._at = max(at, 0.0)
        return self._at

    def picture(self) -> Image | None:
        done, image = self._capture.retrieve()
        return as_image(image) if done else None

    def seek(self, position: float) -> None:
        if self.duration and self.fps:
            position = min(position, self.duration - 1 / self.fps)
        self._at = None
        for back in _SEEK_BACK:
            self._capture.set(cv2.CAP_PROP_POS_MSEC, max(position - back, 0.0) * 1000)
            self._grabbed = self._capture.grab()
            if self._grabbed:
                return


class StillPicture:
    """One picture, shown for ``duration`` seconds."""

    def __init__(self, path: str, duration: float) -> None:
        self._path = path
        self.duration: float | None = duration
        self.fps: float | None = None
        data = Path(path).read_bytes()
        header = read_header(data)
        check(header, ImageLimits())
        self.size = header.upright
        self._is_shown = False

    def advance(self) -> float | None:
        if self._is_shown:
            return None
        self._is_shown = True
        return 0.0

    def picture(self) -> Image | None:
        try:
            data = Path(self._path).read_bytes()
            header = read_header(data)
            check(header, ImageLimits())
            image = decode(data, header, header.upright)
        except (WorkError, OSError):
            return None
        return on_white(image) if has_alpha(image) else image

    def seek(self, position: float) -> None:
        self._is_shown = False


class MediaFolder:
    """A folder whose films and pictures are played in the order of their names.

    The constructor raises WorkError when the folder contains no film and no picture that can be read.
    """

    def __init__(self, path: str, picture_seconds: float, report_alive: "ReportAlive") -> None:
        self._picture_seconds = picture_seconds
        self._parts: list[tuple[str, float]] = []  # (path, start time in the folder)
        self._ends = 0.0
        for name in sorted(os.listdir(path))[:_MOST_FILES]:
            self._add(os.path.join(path, name))
            report_alive()
        if not self._parts:
            raise WorkError("unsupported_format", "this folder contains no readable video or picture")
        self.duration: float | None = self._ends
        self._open_part(0)
        self.fps, self.size = self._part.fps, self._part.size

    def _add(self, path: str) -> None:
        if os.path.isfile(path):
            try:
                duration = self._open(path).duration
            except (WorkError, OSError):
                return
            self._parts.append((path, self._ends))
            self._ends += duration or 0.0

    def _open(self, path: str) -> VideoFile | StillPicture:
        return StillPicture(path, self._picture_seconds) if path.lower().endswith(_PICTURES) else VideoFile(path)

    def _open_part(self, index: int) -> None:
        path, self._begins = self._parts[index]
        self._index, self._part = index, self._open(path)

    def advance(self) -> float | None:
        while (at := self._part.advance()) is None:
            if self._index + 1 >= len(self._parts):
                return None
            self._open_part(self._index + 1)
        return self._begins + at

    def picture(self) -> Image | None:
        return self._part.picture()

    def seek(self, position: float) -> None:
        self._open_part(max(index for index, (_, begins) in enumerate(self._parts) if begins <= max(position, 0.0)))
        self._part.seek(position - self._begins)


class ReportAlive(Protocol):
    """A callback of a long operation. Each call tells the watchdog that the operation makes progress."""

    def __call__(self) -> None: ...


def open_media(url: str, picture_seconds: float, report_alive: ReportAlive) -> MediaReader:
    """Opens a film or a folder.

    Raises:
        WorkError: ``not_found`` when there is no such file, ``unsupported_format`` when it is not a video.
    """
    if "://" in url:
        return VideoFile(url)
    if not os.path.exists(url):
        raise WorkError("not_found", "the file does not exist", temporary=True)
    return MediaFolder(url, picture_seconds, report_alive) if os.path.isdir(url) else VideoFile(url)
