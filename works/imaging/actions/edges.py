"""Outlines of a picture: J. Canny, A Computational Approach to Edge Detection, 1986."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, to_gray

LOW = (
    "Gradient of the brightness from which a pixel belongs to an outline if it touches a strong one. "
    "A larger value draws fewer weak outlines."
)
HIGH = "Gradient of the brightness from which a pixel is always an outline. A larger value draws fewer outlines."


@action()
def edges(
    image: Image,
    *,
    low: Annotated[float, Field(ge=0, le=1000, description=LOW)] = 80,
    high: Annotated[float, Field(ge=0, le=1000, description=HIGH)] = 160,
) -> Image:
    """Draws the outlines of the picture, white on black (Canny edge detection)."""
    return as_image(cv2.Canny(to_gray(image), low, high))
