"""Black and white for scans, also where the light on the page is uneven."""

from typing import Annotated

import cv2
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, to_gray

WINDOW = (
    "Side in pixels of the square around each pixel. The mean of the square is the threshold of the pixel. "
    "A larger square keeps thick strokes whole, a smaller one follows shadows more closely."
)
OFFSET = (
    "Grey levels by which a pixel must be darker than the mean to become black. "
    "A larger offset removes more noise, and thin lines with it."
)


@action()
def binarize(
    image: Image,
    *,
    window: Annotated[int, Field(ge=3, le=501, description=WINDOW)] = 31,
    offset: Annotated[float, Field(ge=-100, le=100, description=OFFSET)] = 12,
) -> Image:
    """Turns a scan into black and white, also where the light on the page is uneven."""
    odd = window | 1
    return as_image(
        cv2.adaptiveThreshold(to_gray(image), 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, odd, offset)
    )
