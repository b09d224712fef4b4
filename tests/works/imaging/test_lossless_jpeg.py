"""A lossless JPEG is always decoded in full size and resized afterwards. When its decoder is asked for a reduced size,
it writes beyond the end of its array.
"""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.lossless_jpeg import SOF7, SOF11, SOF15, lossless_jpeg
from tests.support.pictures import photograph
from tests.support.running import ROOT
from works.errors import WorkError
from works.imaging.codec import decode
from works.imaging.image_header import read_header
from works.imaging.pixels import Image, as_image

COLOUR = as_image(photograph("chelsea.png")[:160, :170])
GRAY = as_image(cv2.cvtColor(COLOUR, cv2.COLOR_BGR2GRAY))
# This program decodes a picture at each size and saves the pixels. It runs in a separate process, because without the
# guard in the codec it may crash.
DECODE = """
import sys
import numpy as np
from works.imaging.codec import decode
from works.imaging.image_header import read_header
data = open(sys.argv[1], "rb").read()
for number, size in enumerate(sys.argv[3:]):
    width, height = map(int, size.split("x"))
    np.save(f"{sys.argv[2]}/{number}.npy", decode(data, read_header(data), (width, height)))
"""


@pytest.mark.parametrize(
    "image", [COLOUR, GRAY, GRAY[:41, :97], COLOUR[:9, :8], GRAY[:7, :5]], ids=lambda i: str(i.shape)
)
def test_a_reduced_lossless_jpeg_equals_the_resized_full_picture(tmp_path: Path, image: Image) -> None:
    height, width = image.shape[:2]
    sizes = [(width, height), *((max(1, width // by), max(1, height // by)) for by in (2, 3, 4, 8, 16)), (1, 1)]
    file = tmp_path / "picture.jpg"
    file.write_bytes(lossless_jpeg(as_image(np.ascontiguousarray(image))))
    arguments = [str(file), str(tmp_path), *(f"{across}x{down}" for across, down in sizes)]
    done = subprocess.run([sys.executable, "-c", DECODE, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or f"killed by signal {-done.returncode}"
    for number, size in enumerate(sizes):
        expected = image if size == (width, height) else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        assert (np.load(tmp_path / f"{number}.npy") == expected).all(), size


def test_the_header_of_a_lossless_jpeg_is_recognized() -> None:
    assert read_header(lossless_jpeg(GRAY)).lossless
    assert not read_header(cv2.imencode(".jpg", COLOUR)[1].tobytes()).lossless


@pytest.mark.parametrize("frame", [SOF7, SOF11, SOF15])
def test_the_other_lossless_processes_are_refused_at_every_size(frame: int) -> None:
    data = lossless_jpeg(GRAY, frame)
    header = read_header(data)
    assert header.lossless
    for size in ((170, 160), (85, 80), (21, 20)):
        with pytest.raises(WorkError, match="cannot be read"):
            decode(data, header, size)


def test_a_picture_whose_size_differs_from_its_header_is_refused() -> None:
    """The size in the checked header is binding, even when the decoder finds another size in the file."""
    data = lossless_jpeg(GRAY)
    header = read_header(lossless_jpeg(as_image(GRAY[:80, :85])))
    with pytest.raises(WorkError, match="its size differs"):
        decode(data, header, (85, 80))
