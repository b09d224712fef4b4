"""Conversion from colour to grey."""

from works.imaging.actions import action
from works.imaging.pixels import Image, keep_alpha, to_gray


@action()
def grayscale(image: Image) -> Image:
    """Converts the picture to grey (weights of ITU-R BT.601)."""
    return keep_alpha(image, to_gray)
