"""The actions. Each accepts any picture, has the documented effect on real pictures, and declares the types of its
options. A new action is one function.
"""

import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import cv2
import numpy as np
import pytest
from pydantic import Field

from tests.support.pictures import photograph, scan
from tests.support.running import ROOT
from works.errors import WorkError
from works.imaging import actions
from works.imaging.actions import Findings
from works.imaging.pixels import Image, as_image, to_gray

PHOTO = photograph()
TRANSPARENT = as_image(np.dstack([PHOTO, PHOTO[:, :, 0]]))  # This picture has an alpha channel.
SIZES = [(1, 1), (3, 5), (17, 1), (1, 17), (255, 33), (33, 255)]


def done(name: str, image: Image, **options: Any) -> Image:
    """Checks the options as for a client, applies the action, and returns the picture."""
    result = actions.apply(name, image, actions.check(name, options))
    return result.image if isinstance(result, Findings) else result


def found(name: str, image: Image, **options: Any) -> Findings:
    result = actions.apply(name, image, actions.check(name, options))
    assert isinstance(result, Findings)
    return result


def faults(name: str, options: dict[str, Any]) -> str:
    with pytest.raises(WorkError) as caught:
        actions.check(name, options)
    assert caught.value.code == "bad_options"
    return caught.value.message


def detail(image: Image) -> float:
    """Returns how strongly neighbouring pixels differ: the mean square of the Laplacian."""
    return float(np.square(cv2.Laplacian(to_gray(image), cv2.CV_64F)).mean())


def without_change(name: str, picture: Image) -> Image:
    """Applies the action and checks that it has not changed the picture that it was given."""
    before = picture.copy()
    result = done(name, picture)
    assert (picture == before).all()
    return result


@pytest.mark.parametrize("name", actions.offered())
@pytest.mark.parametrize("kind", [to_gray(PHOTO), PHOTO, TRANSPARENT], ids=["gray", "colour", "alpha"])
def test_each_action_accepts_each_kind_of_picture_and_does_not_change_it(name: str, kind: Image) -> None:
    # The action ``text`` takes about 1 s for this picture, and about 5 s for a narrow one.
    sizes = [(96, 96)] if name == "text" else [*SIZES, (512, 512)]
    for picture in (np.ascontiguousarray(kind[-h:, -w:]) for w, h in sizes):
        result = without_change(name, picture)
        assert result.shape[:2] == picture.shape[:2]
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        assert result.ndim == 2 or result.shape[2] in (3, 4)


@pytest.mark.parametrize("name", ["blur", "denoise", "grayscale", "resize", "sharpen", "deskew"])
def test_actions_that_only_change_colours_keep_the_alpha_channel(name: str) -> None:
    still = TRANSPARENT if name != "deskew" else as_image(np.full((64, 64, 4), 9, np.uint8))
    assert (done(name, still)[:, :, 3] == still[:, :, 3]).all()


def test_resize_has_the_alias_rl_and_changes_nothing() -> None:
    assert (done("rl", PHOTO) == PHOTO).all()


def test_grayscale_keeps_the_brightness_and_removes_the_colours() -> None:
    red, green, blue = ([0, 0, 200], [0, 200, 0], [200, 0, 0])
    assert done("grayscale", as_image(np.array([[red, green, blue]], np.uint8))).tolist() == [[60, 117, 23]]


def test_binarize_is_black_and_white_and_text_stays_dark_on_a_page_with_a_shadow() -> None:
    shadow = np.linspace(0.4, 1, scan().shape[1])
    page = done("binarize", as_image(scan() * shadow))
    assert set(page.flat) == {0, 255}
    ink = cv2.adaptiveThreshold(scan(), 1, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, 51, 30).astype(bool)
    assert (page[ink] == 0).mean() > 0.95
    for third in np.array_split(page, 3, axis=1):
        assert 0.02 < (third == 0).mean() < 0.3


def test_edges_marks_only_places_where_the_brightness_changes() -> None:
    square = np.zeros((60, 60), np.uint8)
    square[20:40, 20:40] = 200
    outline = done("edges", square)
    assert set(outline.flat) == {0, 255}
    assert outline[20:39].any(axis=1).all()
    assert not outline[23:37, 23:37].any()
    assert not outline[:17].any()
    assert done("edges", PHOTO, low=300, high=600).sum() < done("edges", PHOTO).sum()


def test_sharpen_adds_detail_and_blur_removes_it_according_to_their_options() -> None:
    sharper = [detail(done("sharpen", PHOTO, amount=amount)) for amount in (0.5, 1, 2)]
    softer = [detail(done("blur", PHOTO, radius=radius)) for radius in (1, 3, 9)]
    assert sorted([*sharper, *softer, detail(PHOTO)]) == [*softer[::-1], detail(PHOTO), *sharper]


def test_denoise_removes_noise_and_keeps_edges() -> None:
    clean = np.full((100, 100), 60, np.uint8)
    clean[:, 50:] = 190
    noisy = as_image(np.clip(clean + np.random.default_rng(1).normal(0, 8, clean.shape), 0, 255))
    smooth = done("denoise", noisy).astype(int)
    assert np.abs(smooth - clean).mean() < np.abs(noisy.astype(int) - clean).mean() / 3
    assert (smooth[:, 50] - smooth[:, 49]).min() > 100


def rotate(image: Image, angle: float) -> Image:
    """Returns the picture rotated counter-clockwise by ``angle`` degrees, on a white background."""
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    return as_image(cv2.warpAffine(image, matrix, (width, height), borderValue=255))


PAGE = as_image(cv2.copyMakeBorder(scan(), 40, 40, 20, 20, cv2.BORDER_CONSTANT, value=255))


def tilt(page: Image) -> float:
    """Returns by how many degrees the page is rotated clockwise: the counter-clockwise rotation after which it is most
    similar to the level page.
    """

    def likeness(angle: float) -> float:
        pair = [rotate(page, angle)[60:-60, 60:-60].ravel(), PAGE[60:-60, 60:-60].ravel()]
        return float(np.corrcoef(pair)[0, 1])

    return float(max(np.arange(-8, 8.05, 0.1), key=likeness))


@pytest.mark.parametrize("angle", [-7, -3, 3, 7])
def test_deskew_makes_a_rotated_page_level(angle: float) -> None:
    rotated = rotate(PAGE, angle)
    assert abs(tilt(rotated) + angle) <= 0.1
    assert abs(tilt(done("deskew", rotated))) <= 0.5


def test_deskew_never_rotates_by_more_than_its_limit() -> None:
    assert tilt(done("deskew", rotate(PAGE, 7), limit=2)) <= -5 + 0.1


def with_code(text: str, x: int, y: int, side: int) -> Image:
    """Returns a photograph with a QR code on a white square. ``side`` is the length of the square in pixels, with its
    margin.
    """
    code = cv2.QRCodeEncoder.create().encode(text)
    picture = PHOTO.copy()
    picture[y : y + side, x : x + side] = 255
    inner = side * 3 // 4
    code = cv2.resize(code, (inner, inner), interpolation=cv2.INTER_NEAREST)
    edge = side // 8
    picture[y + edge : y + edge + inner, x + edge : x + edge + inner] = code[:, :, None]
    return picture


def test_codes_reads_qr_codes_and_returns_their_positions() -> None:
    result = found("codes", with_code("https://example.org/Käse", 300, 40, 160))
    assert result.name == "codes"
    (item,) = result.items
    assert (item["text"], item["kind"]) == ("https://example.org/Käse", "QR")
    # The drawing of the code fills three quarters of the square, and has another white margin inside.
    x, y, width, height = item["box"]
    assert 315 <= x <= x + width <= 446
    assert 55 <= y <= y + height <= 186
    assert min(width, height) > 80


def test_codes_outlines_the_codes_only_when_requested() -> None:
    picture = with_code("hello", 300, 40, 160)
    assert (found("codes", picture, outline=False).image == picture).all()
    assert (found("codes", picture).image != picture).any()
    assert found("codes", PHOTO).items == []


def test_faces_finds_the_face_of_the_astronaut_and_blurs_it() -> None:
    result = found("faces", PHOTO)
    boxes = [item["box"] for item in result.items]
    (x, y, width, height) = next(
        box for box in boxes if box[0] < 224 < box[0] + box[2] and box[1] < 110 < box[1] + box[3]
    )
    assert (
        detail(as_image(result.image[y : y + height, x : x + width]))
        < detail(PHOTO[y : y + height, x : x + width]) / 50
    )
    elsewhere = np.ones(PHOTO.shape[:2], bool)
    for left, top, across, down in boxes:
        elsewhere[top : top + down, left : left + across] = False
    assert (result.image[elsewhere] == PHOTO[elsewhere]).all()


def test_faces_can_draw_boxes_and_finds_no_face_in_a_cup_of_coffee() -> None:
    framed = found("faces", PHOTO, show="box")
    assert framed.items == found("faces", PHOTO).items
    assert 0 < (framed.image != PHOTO).any(axis=2).mean() < 0.03
    assert found("faces", photograph("coffee.png")).items == []


def test_without_rapidocr_text_is_not_offered_and_the_error_names_the_package() -> None:
    script = """
import sys
sys.modules["rapidocr"] = None  # an import then fails as if the package were not installed
from works import errors
from works.imaging import actions
assert "text" not in actions.offered()
try:
    actions.find("text")
except errors.WorkError as error:
    print(error.code, error.message)
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert (
        finished.stdout
        == "unknown_action action 'text' needs the package rapidocr, which is not installed on this server\n"
    )


def test_text_reads_a_page_line_by_line() -> None:
    page = as_image(cv2.resize(scan(), None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC))
    lines = found("text", page)
    assert lines.name == "lines"
    assert "Region-based segmentation" in [line["text"] for line in lines.items]


def test_the_error_for_an_unknown_action_lists_the_known_actions() -> None:
    with pytest.raises(WorkError, match=r"binarize.*sharpen") as caught:
        actions.check("explode", {})
    assert caught.value.code == "unknown_action"


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blur", {"radius": 0}),
        ("blur", {"radius": 50.1}),
        ("blur", {"radius": "wide"}),
        ("blur", {"radius": float("nan")}),
        ("blur", {"radius": float("inf")}),
        ("blur", {"radius": None}),
        ("binarize", {"window": 2}),
        ("binarize", {"window": 3.5}),
        ("faces", {"show": "hide"}),
        ("deskew", {"limit": 46}),
        ("codes", {"outline": "perhaps"}),
        ("resize", {"width": 3}),
    ],
)
def test_the_error_for_an_invalid_option_names_it(name: str, options: dict[str, Any]) -> None:
    assert faults(name, options).startswith(f"{name}: {next(iter(options))}: ")


def test_one_error_names_all_faults() -> None:
    message = faults("sharpen", {"amount": -1, "radius": "x", "colour": "red"})
    assert all(f"{option}: " in message for option in ("amount", "radius", "colour"))


def test_missing_options_get_their_defaults() -> None:
    assert actions.check("sharpen", {"radius": 2}) == {"amount": 1.0, "radius": 2.0}


@pytest.fixture
def new_action() -> Iterator[None]:
    """Registers an action as a developer would add it, and removes it from the registry after the test."""

    @actions.action(alias="neg")
    def negative(image: Image, *, share: Annotated[float, Field(ge=0, le=1)] = 1.0) -> Image:
        """Inverts the colours
        by a `share`."""
        return as_image(np.round(image * (1 - share) + (255 - image) * share))

    yield
    del actions._registry.actions["negative"]
    del actions._registry.aliases["neg"]


@pytest.mark.usefixtures("new_action")
def test_a_new_action_is_offered_with_its_help_and_schema() -> None:
    described = actions.offered()["negative"]
    assert described["help"] == "Inverts the colours by a `share`."
    assert described["options"]["share"] == {
        "default": 1.0,
        "maximum": 1,
        "minimum": 0,
        "title": "Share",
        "type": "number",
    }
    assert not described["gives_data"]
    assert (done("neg", PHOTO) == 255 - PHOTO).all()
    assert faults("negative", {"share": 2}).startswith("negative: share: ")


@pytest.mark.usefixtures("new_action")
def test_two_actions_with_the_same_name_are_refused() -> None:
    def negative(image: Image) -> Image:
        return image

    with pytest.raises(ValueError, match="two actions have the name 'negative'"):
        actions.action()(negative)
