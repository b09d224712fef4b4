"""Real pictures for the tests: the photographs and scans that are installed with scikit-image, in several encodings."""

import io
import struct
import zlib
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import skimage

from works.imaging.pixels import Image, as_image

DATA = Path(skimage.__file__).parent / "data"


@cache
def photograph(name: str = "astronaut.png") -> Image:
    """Returns a photograph in BGR (512 x 512 astronaut.png, 600 x 400 coffee.png, 451 x 300 chelsea.png, ...)."""
    image = cv2.imread(str(DATA / name), cv2.IMREAD_COLOR)
    assert image is not None, name
    return as_image(image)


@cache
def scan() -> Image:
    """Returns a scanned page of print, 384 x 191 pixels, gray."""
    image = cv2.imread(str(DATA / "page.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return as_image(image)


def encoded(image: Image, suffix: str = ".jpg", quality: int = 90) -> bytes:
    parameters = {".jpg": [cv2.IMWRITE_JPEG_QUALITY, quality], ".webp": [cv2.IMWRITE_WEBP_QUALITY, quality]}
    done, data = cv2.imencode(suffix, image, parameters.get(suffix, []))
    assert done
    return data.tobytes()


def decoded(data: bytes) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return as_image(image)


@cache
def tall(height: int = 10_000, width: int = 800) -> Image:
    """Returns a tall picture: the photographs below each other, each scaled to the width."""
    rows, total = [], 0
    names = ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg"]
    while total < height:
        photo = photograph(names[len(rows) % len(names)])
        row = cv2.resize(photo, (width, round(photo.shape[0] * width / photo.shape[1])))
        rows.append(as_image(row))
        total += row.shape[0]
    return as_image(np.concatenate(rows)[:height])


@cache
def small() -> bytes:
    """Returns a slice of a photograph that is quick to process: 128 x 64 pixels, JPEG."""
    return encoded(photograph()[100:164, 100:228])


def animated_gif() -> bytes:
    return (DATA / "no_time_for_that_tiny.gif").read_bytes()


def with_pillow(image: Image, format: str, **options: object) -> bytes:
    """Encodes with Pillow what OpenCV cannot write: palettes, CMYK, Exif, animation."""
    from PIL import Image as Pillow

    out = io.BytesIO()
    picture = Pillow.fromarray(image[:, :, ::-1] if image.ndim == 3 else image)
    mode = options.pop("mode", None)
    if mode:
        picture = picture.convert(str(mode))
    picture.save(out, format, **options)
    return out.getvalue()


def animated(format: str, frames: int = 3) -> bytes:
    """Returns an animation of ``frames`` views of a photograph, each shifted a little, as PNG, WEBP or GIF."""
    from PIL import Image as Pillow

    pictures = [Pillow.fromarray(photograph()[shift : shift + 40, :60, ::-1]) for shift in range(0, 20 * frames, 20)]
    return with_pillow(photograph()[:40, :60], format, save_all=True, append_images=pictures[1:], duration=100)


def oriented(image: Image, orientation: int, format: str = "JPEG") -> bytes:
    """Returns the unchanged pixels with an Exif tag that says how a viewer must rotate them."""
    from PIL import Image as Pillow

    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return with_pillow(image, format, exif=exif.tobytes())


def claiming(width: int, height: int) -> bytes:
    """Returns a PNG without pixels whose header declares this size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    framed = [
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
