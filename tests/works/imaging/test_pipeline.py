"""The pipeline of one task: limits before and after the resize, boxes in pixels of the page, and the delivery of
results.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.support.pictures import animated, animated_gif, claiming, decoded, encoded, oriented, photograph, small
from works.errors import CODES, Busy, Code, WorkError
from works.imaging import actions
from works.imaging.pipeline import process
from works.imaging.pixels import as_image
from works.imaging.settings import ImageLimits
from works.imaging.task import Result, Task
from works.storage.results_folder import FolderResults

CAT = encoded(photograph("chelsea.png"))  # The picture has 451 x 300 pixels.


def performed(folder: Path, payload: bytes, limits: ImageLimits | None = None, **members: Any) -> Result:
    options = actions.check(members.get("action", "resize"), members.pop("options", {}))
    task = Task("session", "id", payload, options=options, **members)
    return process(task, FolderResults(folder), limits or ImageLimits())


def refused(folder: Path, payload: bytes, limits: ImageLimits | None = None, **members: Any) -> WorkError:
    """Processes the picture and returns the error. Checks that no file, complete or partial, is left in the media
    folder.
    """
    with pytest.raises(WorkError) as caught:
        performed(folder, payload, limits, **members)
    assert list(folder.iterdir()) == []
    return caught.value


LIMITS: list[tuple[bytes, ImageLimits, float, str, str]] = [
    (CAT, ImageLimits(max_pixels=451 * 300 - 1), 1, "too_many_pixels", "451 x 300; at most 135,299 pixels"),
    (CAT, ImageLimits(max_pixels=451 * 300 - 1), 0.5, "too_many_pixels", "the picture is 451 x 300"),
    (CAT, ImageLimits(max_pixels=451 * 300), 1.01, "too_many_pixels", "the result would be 455 x 303"),
    (CAT, ImageLimits(max_side=450), 1, "too_many_pixels", "a side may have at most 450"),
    (CAT, ImageLimits(max_side=451), 1.01, "too_many_pixels", "a side may have at most 451"),
    (CAT, ImageLimits(), 1e9, "too_many_pixels", "the result"),
    (claiming(30_000, 30_000), ImageLimits(), 1e-6, "too_many_pixels", "30000 x 30000; at most 50,000,000 pixels"),
    (animated_gif(), ImageLimits(max_frames=99), 1, "unsupported_format", "GIF"),
    (animated("PNG"), ImageLimits(), 1, "unsupported_format", "3 frames; at most 1"),
    (animated("WEBP"), ImageLimits(max_frames=2), 1, "unsupported_format", "3 frames; at most 2"),
    (
        CAT,
        ImageLimits(formats=("png", "webp")),
        1,
        "unsupported_format",
        "jpeg is not accepted by this server; send png, webp",
    ),
    (b"", ImageLimits(), 1, "bad_image", "empty"),
    (CAT[: len(CAT) // 2], ImageLimits(), 1, "bad_image", "cannot be read"),
]


@pytest.mark.parametrize(("payload", "limits", "zoom", "code", "message"), LIMITS)
def test_a_picture_beyond_a_limit_is_refused_with_the_limit(
    tmp_path: Path, payload: bytes, limits: ImageLimits, zoom: float, code: Code, message: str
) -> None:
    error = refused(tmp_path, payload, limits, zoom=zoom)
    assert error.code == code
    assert message in error.message


@pytest.mark.parametrize("payload", [animated("PNG"), animated("WEBP")])
def test_the_first_frame_of_an_accepted_animation_is_processed(tmp_path: Path, payload: bytes) -> None:
    result = performed(tmp_path, payload, ImageLimits(max_frames=3), format="png", deliver="inline")
    first = photograph()[:40, :60].astype(int)
    assert np.abs(decoded(result.payload)[:, :, :3] - first).mean() < 12


def test_a_picture_just_within_the_limits_is_processed(tmp_path: Path) -> None:
    result = performed(tmp_path, CAT, ImageLimits(max_pixels=451 * 300, max_side=451))
    assert (result.width, result.height) == (451, 300)


def test_a_result_too_large_for_its_format_is_refused(tmp_path: Path) -> None:
    thin = encoded(np.zeros((20_000, 2), np.uint8), ".png")
    error = refused(tmp_path, thin, format="webp")
    assert (error.code, "at most 16,383" in error.message) == ("too_many_pixels", True)


def test_store_writes_one_file_and_returns_no_bytes(tmp_path: Path) -> None:
    result = performed(tmp_path, CAT, zoom=0.5, deliver="store")
    assert [path.name for path in tmp_path.iterdir()] == [result.name]
    assert decoded((tmp_path / result.name).read_bytes()).shape == (150, 225, 3)
    assert (result.payload, result.data, result.format) == (b"", None, "jpeg")
    assert (result.width, result.height) == (225, 150)
    assert result.work_ms > 0


def test_inline_returns_the_bytes_and_stores_nothing(tmp_path: Path) -> None:
    result = performed(tmp_path, CAT, zoom=0.5, deliver="inline", format="webp")
    assert list(tmp_path.iterdir()) == []
    assert decoded(result.payload).shape == (150, 225, 3)
    assert (result.name, result.format) == ("", "webp")


def test_data_returns_the_findings_and_no_picture(tmp_path: Path) -> None:
    result = performed(tmp_path, encoded(photograph()), action="faces", deliver="data")
    assert list(tmp_path.iterdir()) == []
    assert (result.name, result.payload) == ("", b"")
    assert result.data is not None
    assert len(result.data["faces"]) >= 1


def with_code() -> bytes:
    """Returns a white page with a QR code. The upper left corner of the code is at (300, 200), and the code is 200
    pixels wide.
    """
    code = cv2.QRCodeEncoder.create().encode("sluice")
    page = np.full((600, 800, 3), 255, np.uint8)
    page[200:400, 300:500] = cv2.resize(code, (200, 200), interpolation=cv2.INTER_NEAREST)[:, :, None]
    return encoded(as_image(page), ".png")


@pytest.mark.parametrize("zoom", [1.0, 0.5, 1.7])
def test_boxes_are_in_pixels_of_the_slice_and_of_the_page(tmp_path: Path, zoom: float) -> None:
    result = performed(tmp_path, with_code(), action="codes", zoom=zoom, offset_top=7000.5, deliver="data")
    assert result.data is not None
    (item,) = result.data["codes"]
    assert item["text"] == "sluice"
    x, y, width, height = item["box"]
    # OpenCV's encoder draws a white margin of 2 modules around the code. Here, 25 modules are 200 pixels wide, so the
    # margin has 16 pixels.
    assert np.abs(np.subtract([x, y, width, height], [316, 216, 168, 168])).max() <= 6
    assert item["page"] == [x, y + 7000.5, width, height]
    json.dumps(result.data)


def test_boxes_are_in_upright_pixels(tmp_path: Path) -> None:
    upright = decoded(with_code())
    stored = as_image(cv2.rotate(upright, cv2.ROTATE_90_COUNTERCLOCKWISE))
    result = performed(tmp_path, oriented(stored, 6, "PNG"), action="codes", zoom=0.5, deliver="data")
    assert result.data is not None
    assert np.abs(np.subtract(result.data["codes"][0]["box"], [316, 216, 168, 168])).max() <= 6


def test_a_slice_without_findings_has_an_empty_list_of_boxes(tmp_path: Path) -> None:
    assert performed(tmp_path, CAT, action="codes", deliver="data").data == {"codes": []}


def test_an_error_of_the_store_raises_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        performed(tmp_path / "missing", small())
    assert list(tmp_path.iterdir()) == []


def test_tasks_results_and_errors_can_be_pickled() -> None:
    task = Task("session", "id", small(), fit=(3, 4), options={"radius": 2})
    result = Result(3, 4, "png", data={"codes": []})
    assert pickle.loads(pickle.dumps((task, result))) == (task, result)
    busy = pickle.loads(pickle.dumps(Busy("wait", 70)))
    assert busy.as_dict() == {"code": "busy", "message": "wait", "temporary": True, "retry_after_ms": 70}


def test_an_error_without_a_retry_time_has_no_retry_member() -> None:
    for code in CODES:
        assert WorkError(code, "why").as_dict() == {"code": code, "message": "why", "temporary": False}
