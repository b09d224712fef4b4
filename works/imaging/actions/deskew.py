"""Rotates a crooked scan until its lines of text are level.

The angle is found with the projection profile (W. Postl, 1986): when lines of text are level, the sums of neighbouring
pixel rows differ most.
"""

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from works.imaging.actions import action
from works.imaging.pixels import Image, as_image, size_of, to_gray

# Longest side in pixels of the picture in which the angle is searched. Lines of text are still separate at this size,
# and 40 trial rotations take about 10 ms.
_SEARCH_WIDTH = 500

LIMIT = "Largest angle that is corrected, in degrees. A larger limit corrects steeper scans."


@action()
def deskew(image: Image, *, limit: Annotated[float, Field(gt=0, le=45, description=LIMIT)] = 15) -> Image:
    """Rotates a crooked scan until its lines of text are level. Free corners get the colours of the edge."""
    width, height = size_of(image)
    if min(width, height) < 16:
        return image
    angle = _skew(to_gray(image), limit)
    return image if abs(angle) < 0.05 else _turn(image, angle)


def _skew(gray: Image, limit: float) -> float:
    shrink = min(1.0, _SEARCH_WIDTH / max(gray.shape))
    small = as_image(cv2.resize(gray, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA))
    _, ink = cv2.threshold(small, 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    best, step = 0.0, limit / 10
    while step >= 0.04:
        around = np.clip(best + step * np.arange(-10, 11), -limit, limit)
        best = float(max(around, key=lambda angle: _contrast(as_image(ink), float(angle))))
        step /= 10
    return best


def _contrast(ink: Image, angle: float) -> float:
    rows = _turn(ink, angle, cv2.BORDER_CONSTANT).sum(axis=1, dtype=np.float64)
    return float(np.square(np.diff(rows)).sum())


def _turn(image: Image, angle: float, border: int = cv2.BORDER_REPLICATE) -> Image:
    width, height = size_of(image)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    return as_image(cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=border))
