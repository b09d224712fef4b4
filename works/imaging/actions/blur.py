"""Gaussian blur."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, keep_alpha


@action()
def blur(image: Image, *, radius: Annotated[float, Field(gt=0, le=50)] = 3.0) -> Image:
    """Softens the picture; `radius` is the Gaussian's standard deviation in pixels."""
    return keep_alpha(image, lambda colour: as_image(cv2.GaussianBlur(colour, (0, 0), radius)))
