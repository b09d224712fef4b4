"""Colour to gray."""

from works.imaging.actions import action
from works.imaging.pixels import Image, keep_alpha, to_gray


@action()
def grayscale(image: Image) -> Image:
    """Takes the colour out (ITU-R BT.601 weights)."""
    return keep_alpha(image, to_gray)
