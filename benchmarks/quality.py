"""The quality of a result: its SSIM (structural similarity) to the original, which is decoded and resampled by area in
floats.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.metrics import structural_similarity


def decoded(data: bytes) -> NDArray[np.float32]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image.astype(np.float32)


def similarity(source: bytes, result: bytes) -> float:
    """Returns the SSIM of a result to the reference: the source, resampled to the size of the result. The maximum is
    1.0.
    """
    made = decoded(result)
    reference = cv2.resize(decoded(source), made.shape[1::-1], interpolation=cv2.INTER_AREA)
    return float(structural_similarity(reference, made, channel_axis=2, data_range=255))


def size(data: bytes) -> tuple[int, int]:
    height, width = decoded(data).shape[:2]
    return width, height
