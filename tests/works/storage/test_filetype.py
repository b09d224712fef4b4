"""The type of a file is detected from its bytes. Real files of every kind are recognized, and files that only start
like a known kind are refused.
"""

import io
import time
import zipfile

import pytest

from tests.support.films import film, sound
from tests.support.pictures import animated, animated_gif, encoded, photograph, scan
from works.errors import WorkError
from works.storage.filetype import FILE_TYPES, detect, gif_size


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("photograph.jpg", encoded(photograph()))
    return out.getvalue()


REAL = {
    ".jpg": encoded(photograph()),
    ".png": encoded(scan(), ".png"),
    ".webp": encoded(scan(), ".webp"),
    ".gif": animated_gif(),
    ".mp4": film(".mp4"),
    ".webm": film(".webm"),
    ".zip": zipped(),
    **{suffix: sound(suffix) for suffix in (".mp3", ".ogg", ".wav", ".m4a", ".flac", ".weba")},
}
TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".wav": "audio/wav",
    ".m4a": "audio/mp4",
    ".flac": "audio/flac",
    ".weba": "audio/webm",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".zip": "application/zip",
}
HTML = b"<!DOCTYPE html><script>alert(1)</script>"
# Data for which no type may be detected. Most of it starts like a file of a known kind.
UNKNOWN = {
    "an empty file": b"",
    "plain text": b"Dear reader",
    "a web page": HTML,
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "an SVG with a prologue": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a PDF": b"%PDF-1.7",
    "an archive": b"PK\3\4" + bytes(100),
    "a program": b"\x7fELF" + bytes(100),
    "a QuickTime video": film(".mov"),
    "a Matroska video": film(".mkv"),
    "an AVI video": film(".avi"),
    "a form": b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + REAL[".png"],
    "the first box of an mp4, then a web page": b"\0\0\0\x20ftypisom" + HTML,
    "an mp4 with boxes of size 0 and a web page": b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\0free" * 9 + HTML,
    "an mp4 without an index": film(".mp4").replace(b"moov", b"free"),
    "an mp4 with a brand that no browser plays": film(".mp4").replace(b"ftypisom", b"ftypqt  "),
    "a truncated mp4": film(".mp4")[:-1],
    "a HEIC picture": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100),
    "the header of a webm, then a web page": b"\x1a\x45\xdf\xa3\x8b\x42\x82\x84webm" + HTML,
    "an ogg with an unknown codec": b"OggS\0\2" + bytes(20) + b"\1\x08\x80theora" + bytes(100),
    "one frame of an mp3, then a web page": b"\xff\xfb\x90\x00" + bytes(413) + HTML,
    "an ID3 tag, then a web page": b"ID3\4\0\0\0\0\0\x0a" + bytes(10) + HTML,
    "an ID3 tag longer than the file": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + HTML,
    "a flac without stream info": b"fLaC\4\0\0\x22" + bytes(34),
}


def refusal(data: bytes) -> WorkError:
    with pytest.raises(WorkError) as caught:
        detect(io.BytesIO(data))
    return caught.value


@pytest.mark.parametrize("suffix", FILE_TYPES)
def test_a_real_file_is_recognized_by_its_bytes(suffix: str) -> None:
    kind = detect(io.BytesIO(REAL[suffix]))
    assert (kind.suffix, kind.type) == (suffix, TYPES[suffix])
    assert kind.group == TYPES[suffix].partition("/")[0].replace("application", "archive")


def test_an_mp4_is_recognized_with_its_index_first_or_last() -> None:
    assert detect(io.BytesIO(film(".m4v"))).type == "video/mp4"
    whole = film(".mp4")
    first, index = int.from_bytes(whole[:4]), whole.index(b"moov") - 4
    assert first < index == len(whole) - int.from_bytes(whole[index : index + 4]), (
        "OpenCV no longer writes the index at the end"
    )
    wide = b"\0\0\0\1free\0\0\0\0\0\0\0\x18" + bytes(8)
    for data in (whole[:first] + whole[index:] + whole[first:index], whole[:first] + wide + whole[first:]):
        assert detect(io.BytesIO(data)).type == "video/mp4"


@pytest.mark.parametrize("case", UNKNOWN)
def test_data_that_only_starts_like_a_known_kind_is_refused(case: str) -> None:
    error = refusal(UNKNOWN[case])
    assert error.code == "unsupported_format"
    assert "jpeg" in error.message
    assert "<script>" not in error.message


def test_the_error_for_a_form_says_what_to_send() -> None:
    assert "send the file itself" in refusal(UNKNOWN["a form"]).message


def test_the_first_bytes_decide_the_type_of_a_polyglot() -> None:
    """A polyglot is a file that is valid in two formats, for example a GIF that is also a script, or a picture that is
    followed by a web page. It gets exactly one type here, and this type is never text.
    """
    assert detect(io.BytesIO(b"GIF89a/*" + bytes(20) + b"*/=alert(1)")).type == "image/gif"
    assert detect(io.BytesIO(REAL[".png"] + HTML)).type == "image/png"


@pytest.mark.parametrize("suffix", FILE_TYPES)
def test_a_truncated_file_never_causes_another_error(suffix: str) -> None:
    """A truncated file is either recognized or refused."""
    data = REAL[suffix]
    for length in [*range(0, min(len(data), 300)), len(data) // 2, len(data) - 1]:
        try:
            assert detect(io.BytesIO(data[:length])).suffix in (suffix, ".weba", ".m4a")
        except WorkError as error:
            assert error.code == "unsupported_format"  # noqa: PT017


def test_the_size_of_a_gif_is_that_of_all_its_frames() -> None:
    assert gif_size(animated_gif()) == (14, 25)
    assert gif_size(animated("GIF")) == (60, 40)


@pytest.mark.parametrize("length", [0, 6, 10, 13, 20, 100, -1])
def test_a_truncated_gif_is_a_bad_image(length: int) -> None:
    with pytest.raises(WorkError, match="GIF"):
        gif_size(animated("GIF")[:length])


HEAD = b"GIF89a\x08\0\x08\0\0\0\0"
FRAME = b",\0\0\0\0\x08\0\x08\0\0\2\1\0\0"


@pytest.mark.parametrize(
    "data",
    [HEAD, HEAD + b"<script>", HEAD + FRAME.replace(b",\0", b",\1", 1), HEAD.replace(b"\x08", b"\0") + FRAME],
    ids=["no frame", "no block", "a frame outside the picture", "no size"],
)
def test_an_invalid_gif_is_a_bad_image(data: bytes) -> None:
    assert gif_size(HEAD + FRAME + b";") == (8, 8)
    with pytest.raises(WorkError, match="GIF") as caught:
        gif_size(data + b";")
    assert caught.value.code == "bad_image"


@pytest.mark.parametrize("pieces", [b"!\xfe" + b"\1a" * (8 << 20), b"!\xfe\0" * (5 << 20)])
def test_a_gif_with_millions_of_blocks_is_refused_quickly(pieces: bytes) -> None:
    """The file is 16 MiB. Without the limit on the number of blocks the check takes 1 s, with it 12 ms."""
    started = time.thread_time()
    with pytest.raises(WorkError, match="too many blocks"):
        gif_size(HEAD + pieces)
    assert time.thread_time() - started < 0.5
