"""Malicious zip files are refused with the reason, and nothing of them is written to the disk."""

import os
import random
import stat
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.pictures import encoded, photograph
from tests.support.recording import recording
from tests.support.zips import overlapping, with_flags, zipped
from works.errors import WorkError
from works.jobs.batch.settings import BatchSettings
from works.jobs.batch.zip_input import open_archive

SETTINGS = BatchSettings(batch_pictures=100, archive_bytes=50 << 20, archive_ratio=100)
PICTURE = encoded(photograph())


def opened(tmp_path: Path, data: bytes, most_bytes: int = 16 << 20) -> dict[str, bytes | str]:
    """Returns the bytes of each picture, or the code of its error."""
    path = tmp_path / "sent.zip"
    path.write_bytes(data)
    pictures = open_archive(path, SETTINGS, most_bytes)
    found: dict[str, bytes | str] = {}
    try:
        for picture in pictures.items:
            try:
                found[picture.name] = picture.read()
            except WorkError as error:
                found[picture.name] = error.code
    finally:
        pictures.close()
    assert list(tmp_path.iterdir()) == [path], "nothing is written"
    return found


def refusal(tmp_path: Path, data: bytes) -> WorkError:
    with pytest.raises(WorkError) as caught:
        opened(tmp_path, data)
    return caught.value


def test_the_pictures_of_a_zip_are_read_unchanged(tmp_path: Path) -> None:
    files = {"b/2.jpg": PICTURE, "b/10.jpg": PICTURE[:-1], "./a.png": b"1", "notes.txt": b"", ".hidden.jpg": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = opened(tmp_path, zipped(files, method))
        assert found == {"a.png": b"1", "b/2.jpg": PICTURE, "b/10.jpg": PICTURE[:-1]}
        assert list(found) == ["a.png", "b/2.jpg", "b/10.jpg"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../a.jpg", "leads out of its folder"),
        ("a/../../b.jpg", "leads out of its folder"),
        ("..", "leads out of its folder"),
        ("/etc/a.jpg", "has an absolute path"),
        ("C:/a.jpg", "has an absolute path"),
        ("c:a.jpg", "has an absolute path"),
        ("..\\a.jpg", "backslash"),
        ("\\\\host\\a.jpg", "backslash"),
        ("a.jpg\0.txt", "control characters"),
        ("a\x1b[2J.jpg", "control characters"),
        ("a\u202egpj.exe.jpg", "control characters"),
        ("a" * 256 + ".jpg", "too long"),
        ("../folder/", "leads out of its folder"),
    ],
)
def test_a_path_that_leads_out_or_is_hidden_is_refused(tmp_path: Path, name: str, said: str) -> None:
    error = refusal(tmp_path, zipped({"good.jpg": PICTURE, name: b"" if name.endswith("/") else PICTURE}))
    assert error.code == "unsupported_format"
    assert said in error.message
    assert error.message.isprintable()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.jpg", "A.JPG"), "overwrite"),
        (("a/b.jpg", "a//b.jpg"), "overwrite"),
        (("a/b.jpg", "./a/b.jpg"), "overwrite"),
        (("caf\u00e9.jpg", "cafe\u0301.jpg"), "overwrite"),
        (("stra\u00dfe.jpg", "STRASSE.jpg"), "overwrite"),
        (("a.jpg", "A.jpg/b.jpg"), "is inside of a file"),
    ],
)
def test_names_that_would_overwrite_each_other_are_refused(tmp_path: Path, names: tuple[str, str], said: str) -> None:
    assert said in refusal(tmp_path, zipped(dict.fromkeys(names, PICTURE))).message


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.jpg", PICTURE)
        file.writestr("a.jpg", b"another")
    data = path.read_bytes()
    path.unlink()
    assert "overwrite" in refusal(tmp_path, data).message


@pytest.mark.parametrize(
    ("mode", "said"),
    [(stat.S_IFLNK, "is a link"), (stat.S_IFIFO, "is not a regular file"), (stat.S_IFBLK, "is not a regular file")],
)
def test_links_and_devices_are_refused(tmp_path: Path, mode: int, said: str) -> None:
    assert said in refusal(tmp_path, zipped({"a.jpg": b"/etc/passwd"}, mode=mode | 0o644)).message


def test_encrypted_entries_are_refused_with_advice(tmp_path: Path) -> None:
    for flags in (0x1, 0x41):
        assert "without a password" in refusal(tmp_path, with_flags(zipped({"a.jpg": PICTURE}), flags)).message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_methods_with_unlimited_memory_are_refused(tmp_path: Path, method: int) -> None:
    assert "use deflate" in refusal(tmp_path, zipped({"a.jpg": PICTURE}, method)).message


def test_zip_bombs_are_refused_by_their_declared_sizes(tmp_path: Path) -> None:
    assert "(archive_ratio)" in refusal(tmp_path, zipped({"a.jpg": bytes(4 << 20)})).message
    many = zipped({f"{n}.jpg": b"" for n in range(101)})
    assert "(batch_pictures)" in refusal(tmp_path, many).message
    large = zipped({f"{n}.jpg": bytes(1 << 20) for n in range(51)})
    assert "(archive_bytes)" in refusal(tmp_path, large).message
    assert "overlaps another" in refusal(tmp_path, overlapping(PICTURE, 50)).message


def test_a_central_directory_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    names = {"n" * 200 + f"{n}.jpg": b"" for n in range(400)}
    assert "central directory is too long" in refusal(tmp_path, zipped(names)).message


def test_an_entry_is_read_only_up_to_its_declared_size(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jpg": bytes(8 << 20)}))
    for mark, place in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        at = data.index(mark) + place
        data[at : at + 4] = (1000).to_bytes(4, "little")
    assert opened(tmp_path, bytes(data)) == {"a.jpg": "bad_image"}


def test_a_picture_larger_than_a_slice_fails_alone(tmp_path: Path) -> None:
    assert opened(tmp_path, zipped({"a.jpg": PICTURE, "b.jpg": b"small"}), most_bytes=1000) == {
        "a.jpg": "too_large",
        "b.jpg": b"small",
    }


def test_a_damaged_picture_fails_alone(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.jpg": PICTURE, "b.jpg": PICTURE}, zipfile.ZIP_STORED))
    data[1000] ^= 0xFF
    assert opened(tmp_path, bytes(data)) == {"a.jpg": "bad_image", "b.jpg": PICTURE}


def test_an_incomplete_or_invalid_zip_is_refused(tmp_path: Path) -> None:
    whole = zipped({"a.jpg": PICTURE})
    for data in (b"", b"PK\3\4", PICTURE, whole[:-30], whole[: len(whole) // 2]):
        assert "not a zip, is incomplete or damaged" in refusal(tmp_path, data).message


def test_no_mutation_of_a_zip_causes_an_internal_error(tmp_path: Path) -> None:
    chance = random.Random(7)
    whole = zipped({f"{n}.jpg": PICTURE[:300] for n in range(3)})
    end = whole.index(b"PK\1\2")
    for _ in range(2000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.choice((chance.randrange(len(data)), chance.randrange(end, len(data))))] = chance.randrange(256)
        with suppress(WorkError):
            opened(tmp_path, bytes(data))


async def test_a_message_cannot_refer_to_a_zip(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        with pytest.raises(WorkError, match="a zip cannot be attached"):
            await job.resources.uploads.attach("alice", [await job.upload(zipped({"a.jpg": PICTURE}))])


async def test_a_job_says_why_a_zip_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        sent = await job.upload(zipped({"../../evil.jpg": PICTURE}))
        failure = await job.failure("batch", zip=sent)
        assert (failure.code, "leads out of its folder" in failure.message) == ("unsupported_format", True)
        assert not any((tmp_path / "media").iterdir())
        assert "not zip" in (await job.failure("batch", zip=await job.upload(PICTURE))).message
    # Other tests may be deleting folders there, which breaks rglob.
    assert "evil.jpg" not in [name for _, _, files in os.walk(tmp_path.parent) for name in files]
