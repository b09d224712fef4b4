"""Gaussian blur."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, keep_alpha

RADIUS = "Standard deviation of the Gaussian in pixels. A larger radius blurs more."


@action()
def blur(image: Image, *, radius: Annotated[float, Field(gt=0, le=50, description=RADIUS)] = 3.0) -> Image:
    """Blurs the picture with a Gaussian."""
    return keep_alpha(image, lambda colour: as_image(cv2.GaussianBlur(colour, (0, 0), radius)))
