"""Decodes pictures with shrink-on-load, resizes them to the exact size, and encodes results.

Metadata are dropped and the Exif orientation is applied. JPEG is decoded by libjpeg-turbo through simplejpeg. Unlike
OpenCV, it reports damaged data instead of returning uninitialised memory. All other formats are decoded by OpenCV.
"""

import math

import cv2
import numpy as np
import simplejpeg

from works.errors import WorkError
from works.imaging.image_header import Buffer, ImageHeader, PictureFormat, jpeg_segments
from works.imaging.pixels import Image, as_image, has_alpha, on_white, size_of
from works.imaging.task import Format

SUFFIX: dict[PictureFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
# Longest side of each format in pixels. JPEG: libjpeg allows 65,500 of T.81's 65,535. WebP: RFC 9649. PNG: OpenCV's
# 2^20.
LONGEST_SIDE: dict[PictureFormat, int] = {"jpeg": 65_500, "png": 1 << 20, "webp": 16_383}
# JPEG 85: beyond it photographs hardly look better. WebP 80 looks the same. PNG 1 takes a third of the time of 6.
_PARAMETERS: dict[PictureFormat, list[int]] = {
    "jpeg": [cv2.IMWRITE_JPEG_QUALITY, 85],
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    "webp": [cv2.IMWRITE_WEBP_QUALITY, 80],
}
# A size beyond every limit that still fits into a message.
_FAR = 1e9
_TURN = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_CLOCKWISE, 8: cv2.ROTATE_90_COUNTERCLOCKWISE}


def target_size(header: ImageHeader, zoom: float, fit: tuple[int, int] | None) -> tuple[int, int]:
    """Returns (width, height) of the result in pixels.

    It is ``int(side * zoom)``, or the largest size within ``fit`` that does not enlarge the picture.
    """
    width, height = header.upright
    if fit:
        zoom = min(fit[0] / width, fit[1] / height, 1.0)
        return max(1, round(width * zoom)), max(1, round(height * zoom))
    zoom = min(zoom, _FAR)
    return max(1, int(width * zoom)), max(1, int(height * zoom))


def decode(data: Buffer, header: ImageHeader, size: tuple[int, int]) -> Image:
    """Returns the picture upright and with exactly ``size`` (width, height) in pixels. Raises WorkError bad_image."""
    stored = size[::-1] if header.orientation >= 5 else size
    image = _decode_jpeg(data, header, stored) if header.format == "jpeg" else _decode_other(data)
    return resize(_upright(image, header.orientation), size)


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Resizes to ``size`` (width, height) in pixels. Area resampling where it shrinks, bicubic where it grows."""
    width, height = size_of(image)
    if (width, height) == size:
        return image
    shrinks = size[0] <= width and size[1] <= height
    return as_image(cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC))


def encode(image: Image, wanted: Format, source: PictureFormat) -> tuple[bytes, PictureFormat]:
    """Returns the encoded bytes and their format. ``auto`` keeps the format of the source, and its transparency.

    Raises WorkError too_many_pixels when the format cannot hold the picture.
    """
    form = source if wanted == "auto" else wanted
    if max(size_of(image)) > LONGEST_SIDE[form]:
        raise WorkError(
            "too_many_pixels",
            f"a side of a {form} may have at most {LONGEST_SIDE[form]:,} pixels; request another format",
        )
    if form == "jpeg" and has_alpha(image):
        image = on_white(image)
    done, encoded = cv2.imencode(SUFFIX[form], image, _PARAMETERS[form])
    if not done:
        raise WorkError("internal", f"the result cannot be encoded as {form}")
    return encoded.tobytes(), form


def _decode_jpeg(data: Buffer, header: ImageHeader, size: tuple[int, int]) -> Image:
    """Decodes at the smallest of 1/8, 1/4, 1/2 and 1/1 that is at least ``size``. CMYK becomes BGR."""
    colour = "GRAY" if header.components == 1 else "BGR"
    width, height = header.width, header.height
    factor = _reduction(header, size)
    decoded = math.ceil(width / factor), math.ceil(height / factor)
    least = {"min_width": decoded[0], "min_height": decoded[1]} if factor > 1 else {}
    try:
        image = simplejpeg.decode_jpeg(_without_strays(data), colour, **least)
    except ValueError as error:
        raise WorkError("bad_image", f"the picture cannot be read: {error}") from None
    image = as_image(image[:, :, 0] if header.components == 1 else image)
    if size_of(image) != decoded:
        raise WorkError("bad_image", "the picture cannot be read: its size differs from that in its header")
    if factor == 1:
        return image
    # The last column and row may stand for fewer than ``factor`` source pixels. These factors reduce their weight.
    across, down = size[0] * factor / width, size[1] * factor / height
    image = as_image(cv2.resize(image, None, fx=across, fy=down, interpolation=cv2.INTER_AREA))
    return np.ascontiguousarray(image[: size[1], : size[0]])


def _reduction(header: ImageHeader, size: tuple[int, int]) -> int:
    """Returns the factor by which libjpeg reduces the picture while decoding, 8, 4, 2 or 1. The result is at least
    ``size``.

    A lossless JPEG is decoded in full size, because it has no reduced sizes. simplejpeg 1.9.0 would write the full
    picture into an array of the reduced size (in one case 20,400 bytes beyond an array of 6,900).
    """
    if header.lossless or min(header.width, header.height) < 8:  # reduced sizes of such a file have wrong dimensions
        return 1
    return next((f for f in (8, 4, 2) if size[0] * f <= header.width and size[1] * f <= header.height), 1)


def _without_strays(data: Buffer) -> Buffer:
    """Returns the same JPEG without stray bytes between its segments, which the decoder would report as damage."""
    segments = list(jpeg_segments(data))
    ends = [2, *(end for _, end in segments)]
    if all(start == end for (start, _), end in zip(segments, ends, strict=False)):
        return data
    return b"".join([data[:2], *(data[start:end] for start, end in segments), data[ends[-1] :]])


def _decode_other(data: Buffer) -> Image:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise WorkError("bad_image", "the picture cannot be read: its data are damaged")
    if image.dtype == np.uint16:
        image = np.right_shift(image.astype(np.uint16), 8).astype(np.uint8)
    return as_image(image)


def _upright(image: Image, orientation: int) -> Image:
    """Applies the Exif orientation. 2, 4, 5 and 7 are mirrored; without the mirror they are rotations (CIPA DC-008,
    4.6.4 A).
    """
    if orientation in (2, 4, 5, 7):
        image = as_image(cv2.flip(image, 1))
        orientation = {2: 1, 4: 3, 5: 8, 7: 6}[orientation]
    turn = _TURN.get(orientation)
    return image if turn is None else as_image(cv2.rotate(image, turn))
