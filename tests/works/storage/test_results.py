"""The contract of a ResultStore, checked with every implementation: files are complete or absent, names are random, and
limits are enforced.
"""

import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.s3 import S3
from tests.support.stores import Stand, folder_stand, s3_stand
from works.storage.open import open_results
from works.storage.results import TYPES

ODD_NAMES = [
    "",
    ".",
    "..",
    "/",
    "../secret",
    "/etc/passwd",
    "a.jpg",
    "0" * 32,
    "0" * 31 + ".jpg",
    "0" * 33 + ".jpg",
    "0" * 32 + ".gif",
    "0" * 32 + ".jpg\n",
    "0" * 32 + ".jpg/..",
    "../" + "0" * 32 + ".jpg",
    "A" * 32 + ".jpg",
    "\0" * 32 + ".jpg",
    "\u0660" * 32 + ".jpg",
    "." + "0" * 32 + ".jpg.part",
    "%2e%2e/secret",
]


@pytest.fixture(params=["folder", "s3"])
def stand(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Stand:
    (tmp_path / "secret").write_bytes(b"not for you")
    return folder_stand(tmp_path) if request.param == "folder" else s3_stand(s3)


def test_a_stored_result_is_read_under_a_name_of_128_random_bits(stand: Stand) -> None:
    names = {stand.store.put(bytes([number]), suffix) for number in range(20) for suffix in TYPES}
    assert len(names) == 160
    assert all(re.fullmatch(r"[0-9a-f]{32}\.(jpg|png|webp|webm|mp4|zip|csv|json)", name) for name in names)
    assert {stand.store.read(name) for name in names} == {bytes([number]) for number in range(20)}


def test_a_deleted_result_is_not_found_and_deleting_it_again_is_no_error(stand: Stand) -> None:
    name = stand.store.put(b"x", ".png")
    stand.store.delete(name)
    stand.store.delete(name)
    assert not stand.there(name)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_invalid_name_or_one_with_a_path_is_not_found(stand: Stand, name: str, tmp_path: Path) -> None:
    for do in (stand.store.read, stand.store.delete):
        with pytest.raises(FileNotFoundError):
            do(name)
    assert (tmp_path / "secret").read_bytes() == b"not for you"


@pytest.mark.parametrize("suffix", ["", "jpg", ".html", ".svg", ".JPG", ".jpg/..", "/../../x.jpg"])
def test_an_unknown_suffix_raises_valueerror(stand: Stand, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there are \.jpg"):
        stand.store.put(b"x", suffix)
    with pytest.raises(ValueError, match=r"there are \.jpg"):
        stand.store.put_file(tmp_path / "secret", suffix)


@pytest.mark.parametrize("size", [0, 1, 20 << 20])
def test_put_file_moves_a_file_into_the_store(stand: Stand, size: int, tmp_path: Path) -> None:
    """A file of 20 MiB is sent to a bucket in several parts."""
    film, data = tmp_path / "film", os.urandom(size)
    film.write_bytes(data)
    os.utime(film, (0, 0))
    name = stand.store.put_file(film, ".webm")
    assert name.endswith(".webm")
    assert not film.exists()
    assert stand.store.read(name) == data
    assert stand.store.sweep(3600, 1 << 30) == 0, "the sweep used the age of the file before it was stored"
    assert stand.names() == [name]


def test_put_file_refuses_folders_and_links(stand: Stand, tmp_path: Path) -> None:
    link, folder = tmp_path / "link", tmp_path / "folder"
    link.symlink_to(tmp_path / "secret")
    folder.mkdir()
    for path in (link, folder):
        with pytest.raises(OSError, match="not a regular file"):
            stand.store.put_file(path, ".zip")
    with pytest.raises(OSError, match="No such file"):
        stand.store.put_file(tmp_path / "nothing", ".zip")
    assert stand.names() == []


def test_many_concurrent_writers_lose_nothing(stand: Stand) -> None:
    payloads = [os.urandom(5000) for _ in range(100)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda data: stand.store.put(data, ".jpg"), payloads))
    assert [stand.store.read(name) for name in names] == payloads


def test_check_passes_while_a_file_can_be_written_and_leaves_none(stand: Stand) -> None:
    stand.store.check()
    assert stand.names() == []


def test_the_sweep_deletes_results_that_are_too_old(stand: Stand) -> None:
    old = [stand.aged(b"x", seconds) for seconds in (1000, 5000)]
    young = [stand.aged(b"x", seconds) for seconds in (0, 500)]
    assert stand.store.sweep(900, 1000) == 2
    assert [stand.there(name) for name in old + young] == [False, False, True, True]
    assert stand.store.sweep(900, 1000) == 0


def test_the_sweep_deletes_the_oldest_results_beyond_the_limit_of_bytes(stand: Stand) -> None:
    names = [stand.aged(bytes(10), seconds) for seconds in (400, 100, 300, 200)]
    assert stand.store.sweep(1000, 40) == 0
    assert stand.store.sweep(1000, 25) == 2
    assert [stand.there(name) for name in names] == [False, True, False, True]
    assert stand.store.sweep(1000, 0) == 2


def test_the_sweep_does_not_delete_other_files(stand: Stand) -> None:
    for name in (".gitkeep", "0" * 32 + ".gif", "report.csv"):
        stand.place_odd(name)
        stand.age(name, 1e6)
    assert stand.store.sweep(0.001, 0) == 0
    assert len(stand.names()) == 3


def test_a_store_opens_from_its_url_or_pickle_in_any_directory(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = stand.store.put(b"x", ".jpg")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for again in (open_results(stand.store.url, stand.options), pickle.loads(pickle.dumps(stand.store))):
        assert again.read(name) == b"x"


@pytest.mark.parametrize(
    "url", ["", "media", "file:", "s3:bucket", "http://example.org/media", "s3://b/../x", "s3:///x"]
)
def test_a_url_of_an_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="unknown; use file:FOLDER, s3://BUCKET"):
        open_results(url)


def test_a_bucket_without_a_prefix_is_refused(s3: S3) -> None:
    """With a prefix, a lifecycle rule of the bucket can delete old results without deleting the uploads."""
    with pytest.raises(ValueError, match="add a prefix, such as s3://bucket/results"):
        open_results("s3://bucket/")
