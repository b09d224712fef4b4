"""The pictures: photographs of Debian's mate-backgrounds, whole and cut into slices 256 pixels high (about 45 KB each).

They are downloaded as a Debian package, which is unpacked but neither installed nor committed. If the package is not
available, the sample picture of the repository is used instead, and the report says so.
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
    """Returns twelve photographs of 1.3 to 5 megapixels, or only the sample picture if the package is not available."""
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
    """Returns all slices of the photographs, large and small ones mixed, in the same order in each run."""
    cut = [encode(band, suffix) for path in paths or photographs() for band in bands(read(path))]
    random.Random(1).shuffle(cut)
    return cut


def small(side: int) -> list[bytes]:
    """Returns squares of the photographs, for measures of the transport of a slice rather than of its processing."""
    cut = [encode(np.ascontiguousarray(band[:side, :side])) for path in photographs() for band in bands(read(path))]
    random.Random(1).shuffle(cut)
    return cut


def whole() -> list[bytes]:
    """Returns the original files of the photographs."""
    return [path.read_bytes() for path in photographs()]


def megapixels(count: int, most: int = 4) -> list[bytes]:
    """Returns photographs of about ``count`` megapixels (2560 x 1600 is four), as JPEG with quality 85."""
    size = (2560, count * 1_000_000 // 2560)
    chosen = sorted(photographs(), key=lambda path: -path.stat().st_size)[:most]
    return [encode(cv2.resize(read(path), size, interpolation=cv2.INTER_AREA).astype(np.uint8)) for path in chosen]
