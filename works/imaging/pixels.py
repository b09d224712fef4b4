"""What an array of pixels is in this house, and the few moves that every action shares.

An Image is uint8, C-contiguous, of shape (h, w) for gray, (h, w, 3) for BGR or (h, w, 4) for BGR with straight alpha.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


def size_of(image: Image) -> tuple[int, int]:
    """(width, height) in pixels."""
    return image.shape[1], image.shape[0]


def has_alpha(image: Image) -> bool:
    return image.ndim == 3 and image.shape[2] == 4


def as_image(pixels: object) -> Image:
    """The same array under the house's name: OpenCV's stubs say less than its functions promise."""
    return np.asarray(pixels, dtype=np.uint8)


def to_gray(image: Image) -> Image:
    """(h, w), alpha left out."""
    if image.ndim == 2:
        return image
    return as_image(cv2.cvtColor(image, cv2.COLOR_BGRA2GRAY if has_alpha(image) else cv2.COLOR_BGR2GRAY))


def to_bgr(image: Image) -> Image:
    """(h, w, 3), alpha left out."""
    if image.ndim == 2:
        return as_image(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    return as_image(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)) if has_alpha(image) else image


def on_white(image: Image) -> Image:
    """BGR with the transparent parts filled white, for formats without alpha."""
    alpha = image[:, :, 3:].astype(np.uint16)
    return as_image((image[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255)


def keep_alpha(image: Image, change: Callable[[Image], Image]) -> Image:
    """``change`` done to the gray or colour part; an alpha channel is carried over as it was."""
    if not has_alpha(image):
        return change(image)
    return as_image(np.dstack([to_bgr(change(to_bgr(image))), image[:, :, 3]]))
