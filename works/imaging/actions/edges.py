"""Outlines, after J. Canny, A computational approach to edge detection, 1986."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, to_gray

Threshold = Annotated[float, Field(ge=0, le=1000)]


@action()
def edges(image: Image, *, low: Threshold = 80, high: Threshold = 160) -> Image:
    """White outlines on black: gradients above `high`, and those above `low` that touch them."""
    return as_image(cv2.Canny(to_gray(image), low, high))
