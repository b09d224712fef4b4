"""A ResultStore in a folder. A new file is hidden until it is complete, even when it is moved there from another file
system.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.running import full_disk
from works.storage.open import open_results
from works.storage.results_folder import FolderResults


@pytest.fixture
def store(tmp_path: Path) -> FolderResults:
    opened = open_results(f"file:{tmp_path}/media")
    assert isinstance(opened, FolderResults)
    return opened


@contextmanager
def file_on(near: Path, which: str) -> Iterator[Path]:
    """Yields the path of a file on the file system of the store, or on another file system."""
    if which == "near":
        yield near / "film"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert os.stat(folder).st_dev != near.stat().st_dev
        yield Path(folder) / "film"


def test_a_file_is_complete_or_absent_and_a_failed_put_leaves_nothing(store: FolderResults) -> None:
    with full_disk(10_000), pytest.raises(OSError, match="too large"):
        store.put(bytes(100_000), ".jpg")
    assert list(store.folder.iterdir()) == []
    assert store.read(store.put(bytes(100_000), ".jpg")) == bytes(100_000)


def test_check_fails_where_nothing_can_be_written(store: FolderResults) -> None:
    with full_disk(0), pytest.raises(OSError, match="too large"):
        store.check()
    store.folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        store.check()


@pytest.mark.parametrize("which", ["near", "far"])
def test_put_file_accepts_a_file_from_any_file_system(store: FolderResults, which: str, tmp_path: Path) -> None:
    with file_on(tmp_path, which) as film:
        film.write_bytes(bytes(100_000))
        film.chmod(0o400)
        os.utime(film, (0, 0))
        name = store.put_file(film, ".webm")
        assert not film.exists()
    assert store.read(name) == bytes(100_000)
    assert store.sweep(3600, 1 << 30) == 0, "the sweep used the age of the file before it was stored"


@pytest.mark.parametrize("which", ["near", "far"])
def test_a_file_that_cannot_be_stored_stays_where_it_is(store: FolderResults, which: str, tmp_path: Path) -> None:
    with file_on(tmp_path, which) as film:
        film.write_bytes(bytes(100_000))
        if which == "far":
            with full_disk(50_000), pytest.raises(OSError, match="too large"):
                store.put_file(film, ".webm")
            assert list(store.folder.iterdir()) == []
        store.folder.rmdir()
        with pytest.raises(OSError, match="No such file"):
            store.put_file(film, ".webm")
        assert film.read_bytes() == bytes(100_000)


def test_a_file_that_cannot_be_removed_is_not_stored(store: FolderResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the store accepted a file that it cannot remove from its old place, the file would exist twice. Each new
    attempt would add one more copy.
    """

    def fail_to_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.name == "film":
            raise PermissionError(13, "not yours")
        unlink(path, missing_ok)

    unlink = Path.unlink
    with file_on(store.folder, "far") as film:
        film.write_bytes(b"x")
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", fail_to_unlink)
            with pytest.raises(PermissionError, match="not yours"):
                store.put_file(film, ".webm")
        assert film.exists()
        assert list(store.folder.iterdir()) == []


def test_a_stored_file_gets_the_read_permissions_of_the_folder(store: FolderResults, tmp_path: Path) -> None:
    for mode, expected in ((0o755, 0o644), (0o700, 0o600)):
        store.folder.chmod(mode)
        (tmp_path / "film").write_bytes(b"x")
        (tmp_path / "film").chmod(0o600)
        name = store.put_file(tmp_path / "film", ".mp4")
        assert (store.folder / name).stat().st_mode & 0o777 == expected


def test_a_store_without_its_folder_fails_and_does_not_create_it(store: FolderResults) -> None:
    store.folder.rmdir()
    for do in (lambda: store.put(b"x", ".jpg"), lambda: store.sweep(1, 1)):
        with pytest.raises(OSError, match="No such file"):
            do()
    store.folder.write_bytes(b"a file where the folder was")
    with pytest.raises(OSError, match="Not a directory"):
        store.put(b"x", ".jpg")


def test_the_sweep_deletes_leftovers_of_killed_writers_but_no_files_being_written(store: FolderResults) -> None:
    for number, age in ((1, 3600), (2, 0)):
        part = store.folder / f".{str(number) * 32}.jpg.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    store.sweep(1e6, 10**6)
    assert [path.name for path in store.folder.iterdir()] == [f".{'2' * 32}.jpg.part"]


def test_a_folder_that_cannot_be_created_raises_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        open_results(f"file:{tmp_path}/file/media")
