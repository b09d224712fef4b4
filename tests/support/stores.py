"""Stores of results of every kind, with functions by which tests change them from outside."""

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.s3 import S3
from works.storage.address import StoreOptions
from works.storage.open import open_results
from works.storage.results import ResultStore
from works.storage.results_bucket import BucketResults
from works.storage.results_folder import FolderResults


@dataclass(frozen=True)
class Stand:
    """A store with functions for tests.

    ``age`` makes an object look older by that many seconds. ``names`` returns the names of all objects, including
    leftovers. ``place_odd`` creates an object under a name that the store never generates.
    """

    store: ResultStore
    age: Callable[[str, float], None]
    names: Callable[[], list[str]]
    place_odd: Callable[[str], None]
    options: StoreOptions

    def aged(self, data: bytes, seconds: float) -> str:
        name = self.store.put(data, ".jpg")
        self.age(name, seconds)
        return name

    def there(self, name: str) -> bool:
        try:
            self.store.read(name)
        except FileNotFoundError:
            return False
        return True


def folder_stand(folder: Path) -> Stand:
    store = open_results(f"file:{folder}/media")
    assert isinstance(store, FolderResults)

    def age(name: str, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(store.folder / name, (then, then))

    return Stand(
        store, age, lambda: sorted(os.listdir(store.folder)), lambda name: (store.folder / name).touch(), StoreOptions()
    )


def s3_stand(s3: S3, **bounds: int) -> Stand:
    """Returns a store under its own prefix of the bucket; ``bounds`` are the limits of a sweep."""
    prefix = secrets.token_hex(4)
    options = StoreOptions(30.0, None, s3.values)
    return Stand(
        BucketResults(f"s3://bucket/{prefix}", options, **bounds),
        s3.age,
        lambda: [key.removeprefix(f"{prefix}/") for key in s3.keys(f"{prefix}/")],
        lambda name: s3.put(f"{prefix}/{name}"),
        options,
    )
