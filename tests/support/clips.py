"""Clips for the tests, made by FFmpeg. Every frame shows its number in blocks that lossy codecs preserve."""

import subprocess
from pathlib import Path

import cv2
import numpy as np

from tests.support.pictures import photograph
from works.imaging.pixels import Image, as_image

_BITS, _BLOCK = 12, 16
_CODECS = {
    ".mp4": ["-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-pix_fmt", "yuv420p", "-movflags", "+faststart"],
    ".webm": ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M"],
}


def numbered(number: int, size: tuple[int, int] = (320, 240)) -> Image:
    """Returns a photograph that moves with each frame, with the number in black and white blocks at its lower edge."""
    left = number % 100
    image = as_image(cv2.resize(photograph()[left : left + 300, left : left + 400], size))
    for bit in range(_BITS):
        image[-_BLOCK:, bit * _BLOCK : (bit + 1) * _BLOCK] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: Image, zoom: float = 1) -> int:
    block = _BLOCK * zoom
    row = image[int(-block / 2), :]
    return sum(1 << bit for bit in range(_BITS) if row[int((bit + 0.5) * block)].mean() > 128)


def clip(path: Path, frames: int, fps: float = 25, size: tuple[int, int] = (320, 240), sound: bool = False) -> Path:
    """Writes an MP4 (H.264, with frames stored out of order) or a WebM (VP8), depending on the suffix of ``path``."""
    raw = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{size[0]}x{size[1]}", "-r", str(fps), "-i", "-"]
    tone = ["-f", "lavfi", "-i", "sine", "-shortest"] if sound else []
    command = ["ffmpeg", "-y", "-loglevel", "error", *raw, *tone, *_CODECS[path.suffix], str(path)]
    subprocess.run(command, input=b"".join(numbered(n, size).tobytes() for n in range(frames)), check=True, timeout=100)
    return path


def live(path: Path, to: Path) -> None:
    """Writes the same film as a live recording, which does not declare a duration."""
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-c", "copy", "-f", "webm", "-live", "1", str(to)]
    subprocess.run(command, check=True, timeout=100)


def frames_of(path: Path) -> tuple[list[Image], float]:
    """Returns all frames of a film, and its frame rate."""
    film = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    assert film.isOpened()
    frames = []
    while True:
        done, frame = film.read()
        if not done:
            return frames, film.get(cv2.CAP_PROP_FPS)
        frames.append(as_image(np.asarray(frame)))
