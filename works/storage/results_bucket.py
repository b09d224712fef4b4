"""A ResultStore in a bucket. Each result is one object, stored completely or not at all, with the headers to serve it
with.
"""

import errno
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

from works.storage.address import StoredObject, StoreOptions, address_of
from works.storage.bucket import Bucket
from works.storage.results import NAME, headers_of, new_name

# The lifetime is divided into this many time steps, and a pass counts the bytes of each. The age beyond which files of
# a full store are deleted is then exact to 1/1000 of the lifetime.
_STEPS = 1000


class BucketResults:
    """A ResultStore. A sweep requests at most ``pages`` lists of ``page`` names. The next sweep continues
    from there.
    """

    def __init__(self, url: str, options: StoreOptions, *, page: int = 1000, pages: int = 100) -> None:
        address = address_of(url)
        if address and not address.prefix:
            raise ValueError(
                f"media {url!r}: add a prefix, such as {url.rstrip('/')}/results. Lifecycle rules of a bucket need one"
            )
        self.place = Bucket(url, options)
        self._options = options
        self._page, self._pages = page, pages
        self._pass = _Pass()

    @property
    def url(self) -> str:
        return self.place.url

    def __reduce__(self) -> tuple[Any, ...]:
        return BucketResults, (self.url, self._options)

    def put(self, data: bytes, suffix: str) -> str:
        name = new_name(suffix)
        self.place.put(name, data, headers_of(name))
        return name

    def put_file(self, path: Path, suffix: str) -> str:
        """As in ResultStore. Raises OSError."""
        name = new_name(suffix)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        self.place.put(name, path, headers_of(name))
        try:
            path.unlink()
        except OSError:
            self.delete(name)
            raise
        return name

    def read(self, name: str) -> bytes:
        return self.place.get(_checked(name))[0]

    def delete(self, name: str) -> None:
        self.place.delete([_checked(name)])

    def check(self) -> None:
        self.delete(self.put(b"?", ".png"))

    def sweep(self, max_age: float, max_bytes: int) -> int:
        """Deletes old files, in several sweeps when the store has many names. The size limit is applied after a
        complete pass.
        """
        gone, left = 0, self._pages
        while left > 0:
            for page in self.place.pages(self._pass.after, self._page):
                left -= 1
                old = self._pass.take([each for each in page if NAME.fullmatch(each.key)], max_age)
                self.place.delete(old)
                self._pass.after = page[-1].key
                gone += len(old)
                if left <= 0:
                    return gone
            if not self._pass.end(max_bytes):
                break
        return gone


class _Pass:
    """One pass over all names, in as many sweeps as needed. ``after``: the last name of the pass so far."""

    def __init__(self) -> None:
        self.after = ""
        self._too_old = 0.0  # older files must be deleted, because the last pass found too many bytes
        self._bytes: Counter[float] = Counter()  # time of writing, rounded up -> bytes

    def take(self, page: list[StoredObject], max_age: float) -> list[str]:
        """Returns the names on this page that must be deleted."""
        old, before, step = [], max(time.time() - max_age, self._too_old), max_age / _STEPS or 1.0
        for each in page:
            if each.modified < before:
                old.append(each.key)
            else:
                self._bytes[each.modified // step * step + step] += each.size
        return old

    def end(self, max_bytes: int) -> bool:
        """Ends the pass. Returns whether there are more bytes than allowed. The next pass then deletes the oldest
        files.
        """
        self.after, self._too_old, total = "", 0.0, 0
        seen, self._bytes = self._bytes, Counter()
        for until in sorted(seen, reverse=True):
            total += seen[until]
            if total > max_bytes:
                self._too_old = until
                return True
        return False


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise FileNotFoundError(errno.ENOENT, "no such object", name)
    return name
