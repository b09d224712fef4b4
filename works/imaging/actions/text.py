"""Printed text, read with rapidocr (PP-OCR models, part of its wheel). It is an extra because it needs onnxruntime."""

from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from works.imaging.actions import Findings, action
from works.imaging.pixels import Image, to_bgr

CONFIDENCE = "Lowest confidence of a line, from 0 to 1. A larger value returns fewer lines, with fewer errors."


@cache
def _reader() -> Any:
    # Loaded on first use, in the decoder child that needs it: loading the models takes about 1 s and 400 MB.
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


@action(needs="rapidocr")
def text(image: Image, *, confidence: Annotated[float, Field(ge=0, le=1, description=CONFIDENCE)] = 0.5) -> Findings:
    """Reads printed text (OCR, an extra). Returns the text, the confidence and the box of each line."""
    if min(image.shape[:2]) < 8:
        return Findings(image, "lines", [])
    read = _reader()(to_bgr(image))
    if read.boxes is None:
        return Findings(image, "lines", [])
    items = []
    for corners, line, score in zip(read.boxes, read.txts, read.scores, strict=True):
        if score >= confidence:
            left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
            right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
            box = [left, top, right - left, bottom - top]
            items.append({"text": line, "confidence": round(float(score), 3), "box": box})
    return Findings(image, "lines", items)
