"""Sounds and films for the tests: real files made by FFmpeg (those in samples/), by Python, or by OpenCV."""

import io
import tempfile
import wave
from functools import cache
from pathlib import Path

import cv2

from tests.support.pictures import photograph
from works.imaging.pixels import as_image

SAMPLES = Path(__file__).parent / "samples"
_CODECS = {".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".webm": "VP80", ".mkv": "VP80", ".avi": "MJPG"}


def sound(suffix: str) -> bytes:
    """Returns a third of a second of sound: .wav, or a tone from the samples as .mp3, .ogg, .m4a, .flac or .weba."""
    if suffix != ".wav":
        return (SAMPLES / f"sine{suffix}").read_bytes()
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(4800))
    return out.getvalue()


@cache
def film(suffix: str) -> bytes:
    """Returns a film of ten frames of a photograph, 64 x 48 pixels: .mp4, .m4v, .webm, .mov, .mkv or .avi."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"film{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*_CODECS[suffix]), 10, (64, 48))
        assert writer.isOpened()
        for shift in range(10):
            writer.write(as_image(cv2.resize(photograph()[shift : shift + 96, :128], (64, 48))))
        writer.release()
        return path.read_bytes()
