"""The pictures: photographs of Debian's mate-backgrounds, whole and cut to slices 256 high (about 45 KB each).

They are fetched as a Debian package and only unpacked, never installed or committed. Where that cannot be had, the
sample picture of the repository stands in, and the report says so.
"""

import random
import shutil
import subprocess
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "bench"
SAMPLE = ROOT / "static" / "sample.jpg"
SLICE_HEIGHT = 256
PACKAGE = "mate-backgrounds"

Image = NDArray[np.uint8]


@cache
def photographs() -> list[Path]:
    """Twelve photographs of 1.3 to 5 megapixels; the sample alone where the package cannot be had."""
    folder = CACHE / "photographs"
    found = sorted(folder.glob("usr/share/backgrounds/mate/nature/*.jpg"))
    if not found and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        folder.mkdir(parents=True, exist_ok=True)
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", PACKAGE]
        if not list(folder.glob("*.deb")) and subprocess.run(download, cwd=folder, capture_output=True).returncode:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True)
            subprocess.run(download, cwd=folder, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        found = sorted(folder.glob("usr/share/backgrounds/mate/nature/*.jpg"))
    return found or [SAMPLE]


def read(path: Path) -> Image:
    image = cv2.imread(str(path))
    assert image is not None, path
    return image.astype(np.uint8, copy=False)


def encode(image: Image, suffix: str = ".jpg") -> bytes:
    quality = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, 85], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 85], ".png": []}
    return cv2.imencode(suffix, image, quality[suffix])[1].tobytes()


def bands(image: Image, height: int = SLICE_HEIGHT) -> list[Image]:
    return [image[top : top + height] for top in range(0, image.shape[0] - height + 1, height)]


def slices(paths: list[Path] | None = None, suffix: str = ".jpg") -> list[bytes]:
    """Every slice of the photographs, in an order that mixes large and small, the same in each run."""
    cut = [encode(band, suffix) for path in paths or photographs() for band in bands(read(path))]
    random.Random(1).shuffle(cut)
    return cut


def small(side: int) -> list[bytes]:
    """Squares of the photographs: for figures that are about the way of a slice, not about its pixels."""
    cut = [encode(np.ascontiguousarray(band[:side, :side])) for path in photographs() for band in bands(read(path))]
    random.Random(1).shuffle(cut)
    return cut


def whole() -> list[bytes]:
    """The photographs as they came."""
    return [path.read_bytes() for path in photographs()]


def megapixels(count: int, most: int = 4) -> list[bytes]:
    """Photographs of about so many megapixels (2560 x 1600 is four), JPEG quality 85."""
    size = (2560, count * 1_000_000 // 2560)
    chosen = sorted(photographs(), key=lambda path: -path.stat().st_size)[:most]
    return [encode(cv2.resize(read(path), size, interpolation=cv2.INTER_AREA).astype(np.uint8)) for path in chosen]
