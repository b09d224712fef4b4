"""read_header returns what the headers of real pictures say. For all other data it raises only WorkError."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pictures import animated, animated_gif, claiming, encoded, oriented, photograph, scan, with_pillow
from works.errors import WorkError
from works.imaging.image_header import ImageHeader, read_header
from works.imaging.pixels import Image, as_image

CAT = photograph("chelsea.png")  # The picture has 451 x 300 pixels. The sides differ, and one of them is odd.


def with_alpha(image: Image) -> Image:
    return as_image(np.dstack([image, np.arange(image.shape[1], dtype=np.uint8) + np.zeros(image.shape[:2], np.uint8)]))


def thumbnail(suffix: str) -> bytes:
    """Returns a complete file of a few hundred bytes, which is short enough to be truncated at every length."""
    return encoded(CAT[100:116, 100:124], suffix)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for kind, data in chunks)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def exif_jpeg(exif: bytes) -> bytes:
    """Returns a JPEG into which this Exif segment was inserted."""
    segment = b"Exif\0\0" + exif
    return thumbnail(".jpg")[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + thumbnail(".jpg")[2:]


SIGNATURE = b"\x89PNG\r\n\x1a\n"
REAL = {
    "jpeg": (encoded(CAT), ImageHeader("jpeg", 451, 300)),
    "progressive jpeg": (with_pillow(CAT, "JPEG", progressive=True), ImageHeader("jpeg", 451, 300)),
    "gray jpeg": (encoded(scan()), ImageHeader("jpeg", 384, 191, components=1)),
    "CMYK jpeg": (with_pillow(CAT, "JPEG", mode="CMYK"), ImageHeader("jpeg", 451, 300, components=4)),
    "png": (encoded(CAT, ".png"), ImageHeader("png", 451, 300)),
    "gray png": (encoded(scan(), ".png"), ImageHeader("png", 384, 191)),
    "palette png": (with_pillow(CAT, "PNG", mode="P"), ImageHeader("png", 451, 300)),
    "animated png": (animated("PNG"), ImageHeader("png", 60, 40, frames=3)),
    "webp": (encoded(CAT, ".webp"), ImageHeader("webp", 451, 300)),
    "lossless webp": (encoded(CAT, ".webp", 101), ImageHeader("webp", 451, 300)),
    "webp with alpha": (encoded(with_alpha(CAT), ".webp"), ImageHeader("webp", 451, 300)),
    "animated webp": (animated("WEBP"), ImageHeader("webp", 60, 40, frames=3)),
}
REFUSED = {
    "an empty file": (b"", "bad_image"),
    "text": (b"This is a text file and not a picture.\n", "bad_image"),
    "gif": (animated_gif(), "unsupported_format"),
    "bmp": (encoded(CAT, ".bmp"), "unsupported_format"),
    "tiff": (encoded(CAT, ".tiff"), "unsupported_format"),
    "pdf": (b"%PDF-1.7\n", "unsupported_format"),
    "only the first bytes of a jpeg": (b"\xff\xd8\xff", "bad_image"),
    "jpeg without a frame": (b"\xff\xd8\xff\xd9" + bytes(20), "bad_image"),
    "jpeg segment with a length beyond the end": (b"\xff\xd8\xff\xe0\xff\xff" + bytes(20), "bad_image"),
    "jpeg segment with a length below 2": (b"\xff\xd8\xff\xe0\0\1" + bytes(20), "bad_image"),
    "jpeg with only fill bytes": (b"\xff\xd8" + b"\xff" * 100_000, "bad_image"),
    "only the signature of a png": (SIGNATURE, "bad_image"),
    "46 bytes with a chunk of 2 GB": (
        SIGNATURE + ihdr(64, 64) + struct.pack(">I", 0x7FFFFFFF) + b"IDAT" + bytes(5),
        "bad_image",
    ),
    "png that starts with its pixels": (SIGNATURE + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "bad_image"),
    "png with half a header": (SIGNATURE + chunk(b"IHDR", bytes(4)) + chunk(b"IEND", b""), "bad_image"),
    "png with a width of 0": (SIGNATURE + ihdr(0, 64) + chunk(b"IEND", b""), "bad_image"),
    "png without an end": (SIGNATURE + ihdr(64, 64), "bad_image"),
    "riff with a length beyond the end": (
        b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WEBPVP8 " + bytes(40),
        "bad_image",
    ),
    "webp chunk with a length beyond the end": (
        riff((b"VP8 ", bytes(20))).replace(b"\x14\0\0\0", b"\x14\0\0\x10"),
        "bad_image",
    ),
    "webp without a picture": (riff((b"ICCP", bytes(20))), "bad_image"),
    "riff that is not a webp": (b"RIFF" + struct.pack("<I", 20) + b"WAVEfmt " + bytes(20), "bad_image"),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_header_gives_format_size_frames_and_components(name: str) -> None:
    data, expected = REAL[name]
    assert read_header(data) == expected
    assert read_header(memoryview(data)) == expected


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_gives_the_upright_size(orientation: int, format: str) -> None:
    header = read_header(oriented(CAT, orientation, format))
    assert (header.width, header.height, header.orientation) == (451, 300, orientation)
    assert header.upright == ((451, 300) if orientation < 5 else (300, 451))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("value", "expected"), [(6, 6), (0, 1), (9, 1)])
def test_exif_is_read_in_both_byte_orders_and_an_unknown_value_means_upright(
    order: str, value: int, expected: int
) -> None:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    exif = mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, value, 0, 0)
    assert read_header(exif_jpeg(exif)).orientation == expected


@pytest.mark.parametrize("exif", [b"", b"II", b"XX*\0\0\0\0\x08", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"])
def test_a_picture_with_broken_exif_is_accepted(exif: bytes) -> None:
    assert read_header(exif_jpeg(exif)) == ImageHeader("jpeg", 24, 16)


@pytest.mark.parametrize("name", REFUSED)
def test_data_that_are_no_valid_picture_are_refused(name: str) -> None:
    data, code = REFUSED[name]
    with pytest.raises(WorkError) as caught:
        read_header(data)
    assert caught.value.code == code
    assert not caught.value.temporary


@pytest.mark.parametrize(("name", "label"), [("gif", "GIF"), ("bmp", "BMP"), ("tiff", "TIFF"), ("pdf", "PDF")])
def test_the_error_for_a_format_that_is_not_accepted_names_it(name: str, label: str) -> None:
    with pytest.raises(WorkError, match=f"{label}; send jpeg, png or webp"):
        read_header(REFUSED[name][0])


def test_the_picture_with_a_chunk_of_2_gb_has_46_bytes() -> None:
    assert len(REFUSED["46 bytes with a chunk of 2 GB"][0]) == 46


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_a_truncated_png_or_webp_is_refused(suffix: str) -> None:
    data = thumbnail(suffix)
    for length in range(len(data)):
        with pytest.raises(WorkError):
            read_header(data[:length])
    read_header(data)


def test_a_jpeg_truncated_in_its_header_is_refused_and_later_bytes_are_not_needed() -> None:
    data = thumbnail(".jpg")
    frame = data.index(b"\xff\xc0")
    for length in range(frame + 10):
        with pytest.raises(WorkError):
            read_header(data[:length])
    assert read_header(data[: frame + 19]) == ImageHeader("jpeg", 24, 16)


def test_a_png_with_any_flipped_bit_is_refused() -> None:
    data = thumbnail(".png")
    for at in range(len(data)):
        with pytest.raises(WorkError):
            read_header(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])


def test_a_header_with_900_million_pixels_is_read_without_decoding() -> None:
    assert read_header(claiming(30_000, 30_000)) == ImageHeader("png", 30_000, 30_000)


def test_data_after_the_end_of_a_picture_are_ignored() -> None:
    for suffix in (".jpg", ".png", ".webp"):
        assert read_header(thumbnail(suffix) + b"and so on" * 100) == read_header(thumbnail(suffix))


def check_header_or_work_error(data: bytes) -> None:
    try:
        header = read_header(data)
    except WorkError:
        return
    assert min(header.width, header.height) > 0
    assert 1 <= header.orientation <= 8


STARTS = [
    b"",
    b"\xff\xd8\xff",
    b"\xff\xd8\xff\xe1\0\x20Exif\0\0",
    SIGNATURE,
    SIGNATURE + ihdr(9, 9),
    b"RIFF\x20\0\0\0WEBP",
]
SMALL = [
    thumbnail(".jpg"),
    thumbnail(".png"),
    thumbnail(".webp"),
    oriented(CAT[:8, :8], 6),
    oriented(CAT[:8, :8], 6, "WEBP"),
]


@settings(deadline=None)
@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=200))
def test_arbitrary_bytes_give_a_header_or_a_work_error(start: bytes, rest: bytes) -> None:
    check_header_or_work_error(start + rest)


@settings(deadline=None)
@given(data=st.sampled_from(SMALL), at=st.integers(0, 200), new=st.binary(max_size=12), gone=st.integers(0, 12))
def test_a_mutated_picture_gives_a_header_or_a_work_error(data: bytes, at: int, new: bytes, gone: int) -> None:
    check_header_or_work_error(data[:at] + new + data[at + gone :])
