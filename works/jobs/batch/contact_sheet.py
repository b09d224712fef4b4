"""A contact sheet: pages of thumbnails, each with its number and name. It runs only in a process that may be killed."""

from typing import Any

import cv2
import numpy as np

from works.imaging.codec import decode, target_size
from works.imaging.image_header import read_header
from works.imaging.pixels import as_image, has_alpha, on_white, size_of, to_bgr

# In pixels: the square of a thumbnail, the height of two lines of text below it, and the margin.
PICTURE, _TEXT_HEIGHT, _MARGIN = 160, 34, 8
COLUMNS, ROWS = 8, 6
PER_PAGE = COLUMNS * ROWS
_BACKGROUND, _TEXT_COLOUR, _ERROR_COLOUR = (250, 250, 250), (60, 60, 60), (40, 40, 200)
_CELL = PICTURE + 2 * _MARGIN, PICTURE + _TEXT_HEIGHT + 2 * _MARGIN
# OpenCV's letters are about 8 pixels wide at this scale.
_SCALE, _MAX_LETTERS = 0.4, 22

ToolAnswer = tuple[dict[str, Any], bytes]


class ContactSheet:
    """Draws one page at a time. ``page`` returns the page and starts the next one."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._used = 0
        self._canvas = np.full((ROWS * _CELL[1], COLUMNS * _CELL[0], 3), _BACKGROUND, np.uint8)

    def add(self, payload: bytes, title: str, note: str = "") -> ToolAnswer:
        """Adds an encoded picture that fits into the square, or only a ``note`` that says why there is none."""
        left, top = self._used % COLUMNS * _CELL[0] + _MARGIN, self._used // COLUMNS * _CELL[1] + _MARGIN
        self._used += 1
        if payload:
            header = read_header(payload)
            image = decode(payload, header, target_size(header, 1, (PICTURE, PICTURE)))
            image = on_white(image) if has_alpha(image) else to_bgr(image)
            width, height = size_of(image)
            x, y = left + (PICTURE - width) // 2, top + (PICTURE - height) // 2
            self._canvas[y : y + height, x : x + width] = image
        for line, (text, colour) in enumerate(((title, _TEXT_COLOUR), (note, _ERROR_COLOUR))):
            self._draw_text(text, (left, top + PICTURE + 13 + 15 * line), colour)
        return {"used": self._used}, b""

    def _draw_text(self, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
        """Replaces other letters, because OpenCV draws only ASCII. The number before a name distinguishes pictures."""
        shown = "".join(sign if " " <= sign <= "~" else "?" for sign in text)
        if len(shown) > _MAX_LETTERS:
            shown = f"{shown[: _MAX_LETTERS - 9]}..{shown[-7:]}"
        cv2.putText(as_image(self._canvas), shown, place, cv2.FONT_HERSHEY_SIMPLEX, _SCALE, colour, 1, cv2.LINE_AA)

    def page(self, payload: bytes) -> ToolAnswer:
        """Returns the page as a JPEG, cut below its last row."""
        rows = -(-self._used // COLUMNS)
        columns = min(self._used, COLUMNS)
        used = self._canvas[: rows * _CELL[1], : columns * _CELL[0]]
        page = cv2.imencode(".jpg", used, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        self._begin()
        return {}, page
