"""The promise of a MediaStore, over every implementation: whole files or none, random names, bounds that hold."""

import os
import pickle
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.running import full_disk
from works.media import FolderMedia, MediaStore, open_media

OPENERS: dict[str, Callable[[Path], MediaStore]] = {"folder": lambda folder: open_media(f"file:{folder}/media")}
ODD_NAMES = [
    "", ".", "..", "/", "../secret", "/etc/passwd", "a.jpg", "0" * 32, "0" * 31 + ".jpg", "0" * 33 + ".jpg",
    "0" * 32 + ".gif", "0" * 32 + ".jpg\n", "0" * 32 + ".jpg/..", "../" + "0" * 32 + ".jpg", "A" * 32 + ".jpg",
    "\0" * 32 + ".jpg", "\u0660" * 32 + ".jpg", "." + "0" * 32 + ".jpg.part", "%2e%2e/secret",
]  # fmt: skip


@pytest.fixture(params=OPENERS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MediaStore:
    (tmp_path / "secret").write_bytes(b"not for you")
    return OPENERS[request.param](tmp_path)


def folder_of(store: MediaStore) -> Path:
    assert isinstance(store, FolderMedia)
    return store.folder


def aged(store: MediaStore, data: bytes, seconds: float) -> str:
    """Stored, and as if that long ago."""
    name = store.put(data, ".jpg")
    then = time.time() - seconds
    os.utime(folder_of(store) / name, (then, then))
    return name


def there(store: MediaStore, name: str) -> bool:
    try:
        store.read(name)
    except FileNotFoundError:
        return False
    return True


def test_what_is_put_is_read_back_under_a_name_of_128_random_bits(store: MediaStore) -> None:
    names = {store.put(bytes([number]), suffix) for number in range(50) for suffix in (".jpg", ".png", ".webp")}
    assert len(names) == 150
    assert all(re.fullmatch(r"[0-9a-f]{32}\.(jpg|png|webp)", name) for name in names)
    assert {store.read(name) for name in names} == {bytes([number]) for number in range(50)}


def test_a_name_that_is_not_there_is_not_found_and_deleting_it_is_no_error(store: MediaStore) -> None:
    name = store.put(b"x", ".png")
    store.delete(name)
    store.delete(name)
    assert not there(store, name)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_that_climbs_or_never_was_one_is_not_found(store: MediaStore, name: str, tmp_path: Path) -> None:
    for do in (store.read, store.delete):
        with pytest.raises(FileNotFoundError):
            do(name)
    assert (tmp_path / "secret").read_bytes() == b"not for you"


def test_many_writers_at_once_lose_nothing(store: MediaStore) -> None:
    payloads = [os.urandom(5000) for _ in range(100)]
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda data: store.put(data, ".jpg"), payloads))
    assert [store.read(name) for name in names] == payloads


def test_a_file_is_whole_or_not_there_and_a_failed_put_leaves_nothing(store: MediaStore) -> None:
    with full_disk(10_000), pytest.raises(OSError, match="too large"):
        store.put(bytes(100_000), ".jpg")
    assert list(folder_of(store).iterdir()) == []
    assert store.read(store.put(bytes(100_000), ".jpg")) == bytes(100_000)


def test_check_passes_while_a_file_can_be_written_and_leaves_none(store: MediaStore) -> None:
    store.check()
    assert list(folder_of(store).iterdir()) == []
    with full_disk(0), pytest.raises(OSError, match="too large"):
        store.check()
    folder_of(store).rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.check()


def test_a_store_that_is_gone_fails_and_does_not_come_back_by_itself(store: MediaStore) -> None:
    folder_of(store).rmdir()
    for do in (lambda: store.put(b"x", ".jpg"), lambda: store.sweep(1, 1)):
        with pytest.raises(OSError, match="No such file"):
            do()
    folder_of(store).write_bytes(b"a file where the folder was")
    with pytest.raises(OSError, match="Not a directory"):
        store.put(b"x", ".jpg")


def test_the_sweep_takes_what_is_too_old(store: MediaStore) -> None:
    old = [aged(store, b"x", seconds) for seconds in (101, 5000)]
    young = [aged(store, b"x", seconds) for seconds in (0, 50)]
    assert store.sweep(100, 1000) == 2
    assert [there(store, name) for name in old + young] == [False, False, True, True]
    assert store.sweep(100, 1000) == 0


def test_the_sweep_takes_the_oldest_beyond_the_bound_of_bytes(store: MediaStore) -> None:
    names = [aged(store, bytes(10), seconds) for seconds in (40, 10, 30, 20)]
    assert store.sweep(100, 40) == 0
    assert store.sweep(100, 25) == 2
    assert [there(store, name) for name in names] == [False, True, False, True]
    assert store.sweep(100, 0) == 2


def test_the_sweep_takes_what_a_killed_writer_left_but_not_what_is_being_written(store: MediaStore) -> None:
    for number, age in ((1, 3600), (2, 0)):
        part = folder_of(store) / f".{str(number) * 32}.jpg.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    store.sweep(1e6, 10**6)
    assert [path.name for path in folder_of(store).iterdir()] == [f".{'2' * 32}.jpg.part"]


def test_the_sweep_leaves_alone_what_is_not_a_result(store: MediaStore) -> None:
    stranger = folder_of(store) / ".gitkeep"
    stranger.touch()
    os.utime(stranger, (0, 0))
    assert store.sweep(0, 0) == 0
    assert stranger.exists()


def test_the_same_store_is_opened_from_anywhere_by_its_url_or_its_pickle(
    store: MediaStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert isinstance(store, FolderMedia)
    name = store.put(b"x", ".jpg")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_media(store.url).read(name) == pickle.loads(pickle.dumps(store)).read(name) == b"x"


@pytest.mark.parametrize("url", ["", "media", "file:", "s3:bucket", "http://example.org/media"])
def test_a_url_of_an_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="the known kinds are file:FOLDER"):
        open_media(url)


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        open_media(f"file:{tmp_path}/file/media")
