"""The grey picture that viewers see while a source is lost."""

from functools import lru_cache

import cv2
import numpy as np

_GREY, _LIGHT = 48, 168
_TEXT = "reconnecting"
_MOST_WIDTH = 1280


@lru_cache(maxsize=16)
def placeholder(width: int, height: int) -> tuple[int, int, bytes]:
    """Returns (width, height, JPEG) of a grey picture with this ratio of width to height.

    The picture is at most 1,280 pixels wide, so that creating it takes less than 3 ms.
    """
    if width > _MOST_WIDTH:
        width, height = _MOST_WIDTH, max(1, round(height * _MOST_WIDTH / width))
    picture = np.full((height, width), _GREY, np.uint8)
    (across, down), _ = cv2.getTextSize(_TEXT, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = min(width * 0.5 / across, height * 0.3 / down)
    start = int((width - across * scale) / 2), int((height + down * scale) / 2)
    cv2.putText(picture, _TEXT, start, cv2.FONT_HERSHEY_SIMPLEX, scale, _LIGHT, max(1, round(scale)), cv2.LINE_AA)
    return width, height, cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])[1].tobytes()
