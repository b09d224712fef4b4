"""The type of a picture in memory, and conversions that several actions need.

An Image is a C-contiguous uint8 array of shape (h, w) for grey, (h, w, 3) for BGR, or (h, w, 4) for BGR with straight
(not premultiplied) alpha.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def size_of(image: Image) -> tuple[int, int]:
    """Returns (width, height) in pixels."""
    return image.shape[1], image.shape[0]


def has_alpha(image: Image) -> bool:
    return image.ndim == 3 and image.shape[2] == 4


def as_image(pixels: object) -> Image:
    """Returns the same array with the type Image. OpenCV's type stubs declare a wider type than its
    functions return.
    """
    return np.asarray(pixels, dtype=np.uint8)


def to_gray(image: Image) -> Image:
    """Returns a grey picture of shape (h, w), without alpha."""
    if image.ndim == 2:
        return image
    return as_image(cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if has_alpha(image) else cv2.COLOR_BGR2GRAY))


def to_bgr(image: Image) -> Image:
    """Returns a BGR picture of shape (h, w, 3), without alpha."""
    if image.ndim == 2:
        return as_image(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    return as_image(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)) if has_alpha(image) else image


def on_white(image: Image) -> Image:
    """Returns BGR with white in the transparent parts, for formats without alpha."""
    alpha = image[:, :, 3:].astype(np.uint16)
    return as_image((image[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255)


def keep_alpha(image: Image, change: Callable[[Image], Image]) -> Image:
    """Applies ``change`` to the grey or colour part, and keeps the alpha channel unchanged."""
    if not has_alpha(image):
        return change(image)
    return as_image(np.dstack([to_bgr(change(to_bgr(image))), image[:, :, 3]]))
