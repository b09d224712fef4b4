"""Unsharp masking."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, keep_alpha

AMOUNT = (
    "Factor of the difference between the picture and its blurred copy, which is added to the picture. "
    "A larger amount sharpens more."
)
RADIUS = "Standard deviation of the blurred copy in pixels. A larger radius sharpens coarser detail."


@action()
def sharpen(
    image: Image,
    *,
    amount: Annotated[float, Field(gt=0, le=10, description=AMOUNT)] = 1.0,
    radius: Annotated[float, Field(gt=0, le=50, description=RADIUS)] = 1.5,
) -> Image:
    """Sharpens the picture (unsharp masking)."""

    def change(colour: Image) -> Image:
        blurred = cv2.GaussianBlur(colour, (0, 0), radius)
        return as_image(cv2.addWeighted(colour, 1 + amount, blurred, -amount, 0))

    return keep_alpha(image, change)
