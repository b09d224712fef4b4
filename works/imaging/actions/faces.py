"""Faces, found with the frontal face cascade of OpenCV (Viola, Jones, 2001). It is fast and part of OpenCV."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import cv2
from pydantic import Field

from works.imaging.actions import Findings, action
from works.imaging.pixels import Image, as_image, to_bgr, to_gray


@cache
def _cascade() -> cv2.CascadeClassifier:
    return cv2.CascadeClassifier(str(Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"))


SHOW = "blur hides each face, box draws a green frame around it."
SMALLEST = "Smallest width of a face in pixels. A smaller value finds smaller faces and takes longer."


@action()
def faces(
    image: Image,
    *,
    show: Annotated[Literal["blur", "box"], Field(description=SHOW)] = "blur",
    smallest: Annotated[int, Field(ge=20, le=2000, description=SMALLEST)] = 30,
) -> Findings:
    """Finds faces that look at the camera, and blurs them or draws a frame around them. Returns the box of each."""
    gray = as_image(cv2.equalizeHist(to_gray(image)))
    boxes = _cascade().detectMultiScale(gray, 1.1, 5, minSize=(smallest, smallest))
    items = [{"box": [int(side) for side in box]} for box in boxes]
    if items:
        image = to_bgr(image).copy()
    for item in items:
        x, y, width, height = item["box"]
        if show == "box":
            cv2.rectangle(image, (x, y, width, height), (0, 160, 0), 2)
        else:
            face = image[y : y + height, x : x + width]
            face[:] = cv2.GaussianBlur(face, (0, 0), width / 6)
    return Findings(image, "faces", items)
