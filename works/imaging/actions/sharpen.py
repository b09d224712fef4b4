"""Unsharp masking."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, keep_alpha


@action()
def sharpen(
    image: Image,
    *,
    amount: Annotated[float, Field(gt=0, le=10)] = 1.0,
    radius: Annotated[float, Field(gt=0, le=50)] = 1.5,
) -> Image:
    """Adds `amount` times what a blur of `radius` pixels takes away."""

    def change(colour: Image) -> Image:
        blurred = cv2.GaussianBlur(colour, (0, 0), radius)
        return as_image(cv2.addWeighted(colour, 1 + amount, blurred, -amount, 0))

    return keep_alpha(image, change)
