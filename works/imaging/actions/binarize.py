"""Black on white for scans, whatever the light on the page."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, to_gray


@action()
def binarize(
    image: Image,
    *,
    window: Annotated[int, Field(ge=3, le=501)] = 31,
    offset: Annotated[float, Field(ge=-100, le=100)] = 12,
) -> Image:
    """Black where a pixel is darker by `offset` than the mean of the `window` pixels around it, white elsewhere."""
    odd = window | 1
    return as_image(
        cv2.adaptiveThreshold(to_gray(image), 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, odd, offset)
    )
