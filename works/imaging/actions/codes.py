"""QR and bar codes."""

from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from works.imaging.actions import Findings, action
from works.imaging.pixels import Image, to_bgr, to_gray

OUTLINE = "true draws a green frame around each code, false leaves the picture as it is."


@action()
def codes(image: Image, *, outline: Annotated[bool, Field(description=OUTLINE)] = True) -> Findings:
    """Finds QR codes and bar codes (EAN, UPC). Returns the text, the kind and the box of each."""
    gray = to_gray(image)
    items = _qr_codes(gray) + _bar_codes(gray) if min(gray.shape) >= 16 else []
    if outline and items:
        image = to_bgr(image).copy()
        for item in items:
            cv2.rectangle(image, item["box"], (0, 160, 0), 2)
    return Findings(image, "codes", items)


def _qr_codes(gray: Image) -> list[dict[str, Any]]:
    _, texts, corners, _ = cv2.QRCodeDetector().detectAndDecodeMulti(gray)
    if corners is None:
        return []
    return [_item(text, "QR", points) for text, points in zip(texts, corners, strict=True) if text]


def _bar_codes(gray: Image) -> list[dict[str, Any]]:
    _, texts, kinds, corners = cv2.barcode.BarcodeDetector().detectAndDecodeWithType(gray)
    if corners is None:
        return []
    return [_item(text, kind, points) for text, kind, points in zip(texts, kinds, corners, strict=True) if text]


def _item(text: str, kind: str, corners: NDArray[np.float32]) -> dict[str, Any]:
    left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
    right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
    return {"text": text, "kind": kind, "box": [left, top, right - left, bottom - top]}
