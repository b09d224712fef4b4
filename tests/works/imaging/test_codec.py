"""The codec. Results have the exact size at every zoom, the right pixels, the right orientation, and no metadata."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from tests.support.pictures import decoded, encoded, oriented, photograph, with_pillow
from works.errors import WorkError
from works.imaging.codec import decode, encode, target_size
from works.imaging.image_header import PictureFormat, read_header
from works.imaging.pixels import Image, as_image
from works.imaging.task import Format

CAT = photograph("chelsea.png")  # The picture has 451 x 300 pixels.
CODED = {
    "jpeg": encoded(CAT, ".jpg"),
    "progressive jpeg": with_pillow(CAT, "JPEG", progressive=True, quality=90),
    "gray jpeg": encoded(as_image(cv2.cvtColor(CAT, cv2.COLOR_BGR2GRAY))),
    "png": encoded(CAT, ".png"),
    "webp": encoded(CAT, ".webp"),
}


def opened(data: bytes, zoom: float = 1.0, fit: tuple[int, int] | None = None) -> Image:
    header = read_header(data)
    return decode(data, header, target_size(header, zoom, fit))


def difference(one: Image, other: Image) -> float:
    """Returns the mean absolute difference of two pictures of the same shape, in levels from 0 to 255."""
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


def with_alpha(image: Image, alpha: int) -> Image:
    return as_image(np.dstack([image, np.full(image.shape[:2], alpha, np.uint8)]))


@pytest.mark.parametrize("name", CODED)
@pytest.mark.parametrize("zoom", [1, 1 / 2, 1 / 3, 1 / 4, 1 / 8, 0.9, 2])
def test_each_zoom_gives_the_exact_size_and_the_pixels_of_area_resampling(zoom: float, name: str) -> None:
    image = opened(CODED[name], zoom)
    size = int(451 * zoom), int(300 * zoom)
    reference = cv2.resize(decoded(CODED[name]), size, interpolation=cv2.INTER_AREA if zoom <= 1 else cv2.INTER_CUBIC)
    assert image.flags.c_contiguous
    assert difference(image, as_image(reference)) < (2 if zoom > 1 / 8 else 3.5)


@pytest.mark.parametrize("zoom", [1 / 2, 1 / 3, 1 / 4, 1 / 8])
@pytest.mark.parametrize(("width", "height"), [(451, 300), (449, 391), (1007, 61), (63, 999)])
def test_a_reduced_jpeg_is_not_shifted(width: int, height: int, zoom: float) -> None:
    ramp = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 120, width)).astype(np.uint8)
    size = max(1, int(width * zoom)), max(1, int(height * zoom))
    reference = cv2.resize(ramp, size, interpolation=cv2.INTER_AREA)
    shown = opened(encoded(ramp, quality=100), zoom)
    assert np.abs(shown.astype(int) - reference).max() <= 2


@pytest.mark.parametrize("zoom", [1e-6, 1 / 8, 1 / 2, 0.9])
@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 5), (17, 1), (1, 17)])
def test_every_side_has_at_least_one_pixel(width: int, height: int, zoom: float) -> None:
    image = opened(encoded(as_image(CAT[:height, :width])), zoom)
    assert image.shape[:2] == (max(1, int(height * zoom)), max(1, int(width * zoom)))


@pytest.mark.parametrize(
    ("fit", "size"), [((200, 200), (200, 133)), ((999, 30), (45, 30)), ((5000, 5000), (451, 300)), ((1, 1), (1, 1))]
)
def test_fit_gives_the_largest_size_in_the_box_and_never_enlarges(fit: tuple[int, int], size: tuple[int, int]) -> None:
    assert opened(CODED["jpeg"], fit=fit).shape[:2] == size[::-1]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_each_orientation_are_decoded_upright(orientation: int, format: str) -> None:
    data = oriented(CAT, orientation, format)
    upright = ImageOps.exif_transpose(Pillow.open(io.BytesIO(data)))
    reference = as_image(np.asarray(upright.convert("RGB"))[:, :, ::-1])
    assert difference(opened(data), reference) < 2
    half = as_image(cv2.resize(reference, (reference.shape[1] // 2, reference.shape[0] // 2), interpolation=3))
    assert difference(opened(data, 0.5), half) < 2


@pytest.mark.parametrize("source", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("wanted", ["auto", "jpeg", "png", "webp"])
def test_each_format_is_converted_to_each_and_auto_keeps_the_format(source: PictureFormat, wanted: Format) -> None:
    image = opened(CODED[source])
    data, form = encode(image, wanted, source)
    assert form == read_header(data).format == (source if wanted == "auto" else wanted)
    assert difference(decoded(data), image) < 4


@pytest.mark.parametrize("source", ["png", "webp"])
def test_auto_keeps_transparency(source: PictureFormat) -> None:
    data, _ = encode(opened(encoded(with_alpha(CAT, 77), "." + source)), "auto", source)
    assert set(decoded(data)[:, :, 3].flat) == {77}


def test_transparent_pixels_become_white_in_a_jpeg() -> None:
    black = np.zeros((40, 40, 3), np.uint8)
    for alpha, level in ((0, 255), (255, 0), (128, 127)):
        data, _ = encode(with_alpha(black, alpha), "jpeg", "png")
        assert difference(decoded(data), np.full((40, 40, 3), level, np.uint8)) < 1


def test_a_16_bit_png_keeps_its_upper_8_bits() -> None:
    levels = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    data = cv2.imencode(".png", levels)[1].tobytes()
    assert (opened(data) == levels >> 8).all()


def test_a_palette_png_keeps_its_colours_and_its_transparent_colour() -> None:
    indices = Pillow.fromarray(np.repeat([[0, 1]], 8, axis=0).astype(np.uint8), "P")
    indices.putpalette([250, 10, 20, 30, 40, 200])
    out = io.BytesIO()
    indices.save(out, "PNG", transparency=1)
    image = opened(out.getvalue())
    assert image[0, 0].tolist() == [20, 10, 250, 255]
    assert image[0, 1, 3] == 0


def test_a_gray_png_with_alpha_keeps_both_channels() -> None:
    out = io.BytesIO()
    Pillow.merge("LA", [Pillow.new("L", (8, 8), 90), Pillow.new("L", (8, 8), 33)]).save(out, "PNG")
    assert opened(out.getvalue())[0, 0].tolist() == [90, 90, 90, 33]


@pytest.mark.parametrize("zoom", [1, 0.5])
def test_a_cmyk_jpeg_has_the_colours_of_the_photograph(zoom: float) -> None:
    size = int(451 * zoom), int(300 * zoom)
    reference = as_image(cv2.resize(CAT, size, interpolation=cv2.INTER_AREA))
    assert difference(opened(with_pillow(CAT, "JPEG", mode="CMYK", quality=95), zoom), reference) < 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_metadata_is_in_the_result(format: str) -> None:
    exif = Pillow.Exif()
    exif[0x010E] = "taken at SECRETPLACE"
    data = with_pillow(CAT, format, exif=exif.tobytes(), icc_profile=b"SECRETPROFILE", comment=b"SECRETCOMMENT")
    assert b"SECRET" in data
    result, _ = encode(opened(data), "auto", read_header(data).format)
    assert b"SECRET" not in result
    assert not {"exif", "icc_profile", "comment"} & set(Pillow.open(io.BytesIO(result)).info)


@pytest.mark.parametrize("longest", [("jpeg", 65_501), ("webp", 16_384)])
def test_a_side_beyond_the_limit_of_the_format_is_refused(longest: tuple[PictureFormat, int]) -> None:
    form, side = longest
    with pytest.raises(WorkError, match="request another format") as caught:
        encode(np.zeros((side, 1), np.uint8), form, "png")
    assert caught.value.code == "too_many_pixels"
    assert encode(np.zeros((side, 1), np.uint8), "png", "png")[1] == "png"


def segments(jpeg: bytes) -> list[int]:
    """Returns the offset at which each segment of a JPEG starts, up to the first scan."""
    starts = [2]
    while jpeg[starts[-1] + 1] != 0xDA:
        starts.append(starts[-1] + 2 + struct.unpack_from(">H", jpeg, starts[-1] + 2)[0])
    return starts


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg"])
def test_extra_bytes_between_jpeg_segments_change_nothing(name: str) -> None:
    data, clean = CODED[name], opened(CODED[name])
    for start in segments(data)[1:]:
        for stray in (b"\0", b"\x11" * 40, b"\xff\0", b"\xff\xff"):
            assert (opened(data[:start] + stray + data[start:]) == clean).all()


@pytest.mark.parametrize("name", ["jpeg", "progressive jpeg", "gray jpeg"])
def test_a_truncated_jpeg_is_refused_at_every_zoom(name: str) -> None:
    data = CODED[name]
    for length in [*range(0, 1000, 7), *range(1000, len(data) - 1, 499), len(data) - 10]:
        for zoom in (1, 1 / 8):
            with pytest.raises(WorkError) as caught:
                opened(data[:length], zoom)
            assert caught.value.code == "bad_image"


def truncate_pixels(png: bytes, share: float) -> bytes:
    """Returns a PNG with valid chunks and checksums. Of the data in each chunk of compressed pixels, only the fraction
    ``share`` remains.
    """
    out, at = [png[:8]], 8
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        body = body[: int(length * share)] if kind == b"IDAT" else body
        out.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
        at += 12 + length
    return b"".join(out)


def truncate_chunk(webp: bytes, share: float) -> bytes:
    """Returns a WebP with correct lengths. Only this share of its single chunk remains."""
    length = int((len(webp) - 20) * share) // 2 * 2
    return b"RIFF" + struct.pack("<I", 12 + length) + webp[8:16] + struct.pack("<I", length) + webp[20 : 20 + length]


def damaged(image: Image) -> dict[str, bytes]:
    """Returns the picture with different kinds of damage. Its decoder must notice each of them."""
    jpeg, cmyk = encoded(image), with_pillow(image, "JPEG", mode="CMYK", quality=90)
    png, webp, lossless = encoded(image, ".png"), encoded(image, ".webp"), encoded(image, ".webp", 101)
    middle = len(jpeg) // 2
    return {
        "truncated": jpeg[:middle],
        "truncated, with an end marker": jpeg[:middle] + b"\xff\xd9",
        "bytes removed in the middle": jpeg[:middle] + jpeg[middle + 1500 :],
        "other compressed pixels in the middle": jpeg[:middle] + jpeg[700:2200] + jpeg[middle:],
        "zeros in the middle": jpeg[:middle] + bytes(600) + jpeg[middle + 600 :],
        "CMYK, truncated": cmyk[: len(cmyk) // 2],
        "CMYK, bytes removed in the middle": cmyk[: len(cmyk) // 2] + cmyk[len(cmyk) // 2 + 1500 :],
        "png, half of the pixels": truncate_pixels(png, 0.5),
        "png, no pixels": truncate_pixels(png, 0),
        "webp, truncated chunk": truncate_chunk(webp, 0.5),
        "lossless webp, truncated chunk": truncate_chunk(lossless, 0.5),
    }


@pytest.mark.parametrize("how", damaged(CAT))
def test_damaged_data_are_refused(how: str) -> None:
    with pytest.raises(WorkError) as caught:
        opened(damaged(CAT)[how])
    assert caught.value.code == "bad_image"


def test_a_damaged_picture_never_shows_pixels_of_the_picture_decoded_before() -> None:
    bright = np.random.default_rng(1).integers(128, 256, CAT.shape, dtype=np.uint8)
    dark = encoded(as_image(CAT // 8))
    random = np.random.default_rng(2)
    for _ in range(60):
        opened(encoded(as_image(bright), quality=100))
        at = int(random.integers(700, len(dark) - 100))
        broken = dark[:at] + random.bytes(20) + dark[at + 20 :]
        try:
            shown = opened(broken)
        except WorkError:
            continue
        assert np.mean(np.abs(shown.astype(int) - bright) <= 2) < 0.05
