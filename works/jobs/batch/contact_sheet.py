"""A contact sheet: pages of small pictures, each with its number and name. Only for a process that may be killed."""

from typing import Any

import cv2
import numpy as np

from works.imaging.codec import decode, target_size
from works.imaging.image_header import read_header
from works.imaging.pixels import as_image, has_alpha, on_white, size_of, to_bgr

# Pixels: a small picture fits into a square, two lines of words stand below it, and around both is air.
PICTURE, _WORDS, _AIR = 160, 34, 8
COLUMNS, ROWS = 8, 6
PER_PAGE = COLUMNS * ROWS
_PAPER, _INK, _FAULT = (250, 250, 250), (60, 60, 60), (40, 40, 200)
_CELL = PICTURE + 2 * _AIR, PICTURE + _WORDS + 2 * _AIR
# The letters of OpenCV are about 8 pixels wide at this scale.
_SCALE, _LETTERS = 0.4, 22

ToolAnswer = tuple[dict[str, Any], bytes]


class ContactSheet:
    """One page at a time; ``page`` gives it and begins the next."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._used = 0
        self._paper = np.full((ROWS * _CELL[1], COLUMNS * _CELL[0], 3), _PAPER, np.uint8)

    def add(self, payload: bytes, title: str, note: str = "") -> ToolAnswer:
        """An encoded picture that fits into the square, or none and a note why."""
        left, top = self._used % COLUMNS * _CELL[0] + _AIR, self._used // COLUMNS * _CELL[1] + _AIR
        self._used += 1
        if payload:
            header = read_header(payload)
            image = decode(payload, header, target_size(header, 1, (PICTURE, PICTURE)))
            image = on_white(image) if has_alpha(image) else to_bgr(image)
            width, height = size_of(image)
            x, y = left + (PICTURE - width) // 2, top + (PICTURE - height) // 2
            self._paper[y : y + height, x : x + width] = image
        for line, (words, ink) in enumerate(((title, _INK), (note, _FAULT))):
            self._print(words, (left, top + PICTURE + 13 + 15 * line), ink)
        return {"used": self._used}, b""

    def _print(self, words: str, place: tuple[int, int], ink: tuple[int, int, int]) -> None:
        """OpenCV has letters of ASCII only; the number before a name tells pictures apart."""
        shown = "".join(letter if " " <= letter <= "~" else "?" for letter in words)
        if len(shown) > _LETTERS:
            shown = f"{shown[: _LETTERS - 9]}..{shown[-7:]}"
        cv2.putText(as_image(self._paper), shown, place, cv2.FONT_HERSHEY_SIMPLEX, _SCALE, ink, 1, cv2.LINE_AA)

    def page(self, payload: bytes) -> ToolAnswer:
        """The page as a JPEG, no taller than it is filled."""
        rows = -(-self._used // COLUMNS)
        columns = min(self._used, COLUMNS)
        used = self._paper[: rows * _CELL[1], : columns * _CELL[0]]
        page = cv2.imencode(".jpg", used, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
        self._begin()
        return {}, page
