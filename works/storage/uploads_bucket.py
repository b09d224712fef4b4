"""A Shelf in a bucket, where nothing is renamed: ``ID.record`` says whose an upload is, ``ID.kept`` that it is kept.

Who keeps an upload and who sweeps it away both write ``ID.kept``, each on condition that nobody else has meanwhile: the
store lets one of them win. Empty, it means that the upload is being deleted, and nobody keeps it any more.
"""

import errno
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from works.storage.address import StoredObject, StoreOptions
from works.storage.bucket import Bucket
from works.storage.uploads_store import ABANDONED, ENTRY, ID, Attachment, Usage, headers_of, parse_record, record_of

_RECORD, _KEPT = "record", "kept"
_JSON = {"Content-Type": "application/json"}
# Records read in one sweep, and at once, to learn whose an upload is; the others' turn comes with the next.
_READ, _READ_AT_ONCE = 2000, 8
# Times that somebody else may be first before this is taken for a fault of the store's.
_TURNS = 20
_PART = re.compile(r"\.[0-9a-f]{32}\.part")


class BucketUploads:
    def __init__(self, url: str, options: StoreOptions, spool: Path) -> None:
        self.place, self._spool = Bucket(url, options), spool

    def part(self, id: str) -> Path:
        return self._spool / f".{id}.part"

    def add(self, owner: str, attachment: Attachment, thumbnail: bytes) -> None:
        id, bucket = attachment.id, self.place
        try:
            bucket.put(attachment.name, self.part(id), headers_of(attachment.name))
            if attachment.has_thumbnail:
                bucket.put(attachment.thumbnail, thumbnail, headers_of(attachment.thumbnail))
            bucket.put(f"{id}.{_RECORD}", record_of(owner, attachment), _JSON)
        except OSError:
            with suppress(OSError):  # a sweep finds files without a record
                bucket.delete([f"{id}.{_RECORD}", attachment.name, attachment.thumbnail])
            raise

    def read(self, id: str) -> tuple[str, Attachment] | None:
        if not ID.fullmatch(id):
            return None
        try:
            return parse_record(self.place.get(f"{id}.{_RECORD}")[0])
        except (FileNotFoundError, ValueError):
            return None

    def keep(self, ids: Sequence[str]) -> None:
        for id in ids:
            self._keep(id)

    def _keep(self, id: str) -> None:
        mark = f"{id}.{_KEPT}"
        for _ in range(_TURNS):
            try:
                found, tag = self.place.get(mark)
            except FileNotFoundError:
                found, tag = b"new", "new"
            if not found:
                raise FileNotFoundError(errno.ENOENT, "it is being deleted", mark)
            try:
                # Another each time, and so of another tag: who saw the one before must not overwrite this one.
                self.place.put(mark, secrets.token_hex(8).encode(), _JSON, only=tag)
            except FileExistsError:
                continue
            self._check_record(id)
            return
        raise OSError(errno.EAGAIN, f"{self.place.url}: {mark} changes all the time")

    def _check_record(self, id: str) -> None:
        """A sweep may have come and gone between who looked for the upload and who keeps it."""
        try:
            self.place.look(f"{id}.{_RECORD}")
        except FileNotFoundError:
            self.place.delete([f"{id}.{_KEPT}"])
            raise

    def sweep(self, grace: float, ttl: float, known: Mapping[str, Usage]) -> dict[str, Usage]:
        now = time.time()
        held: dict[str, Usage] = {}
        unread: list[str] = []
        for id, files in self._scan().items():
            record, kept = files.get(_RECORD), files.get(_KEPT)
            if record is None:
                if all(now - each.modified > ABANDONED for each in files.values()):
                    self.place.delete([each.key for each in files.values()])
                continue
            age, most = (now - kept.modified, ttl) if kept else (now - record.modified, grace)
            if (kept and not kept.size) or (age > most and self._condemn(id, kept)):
                self._delete(id, files)
                continue
            owner = known[id].owner if id in known else ""
            held[id] = Usage(owner, sum(each.size for key, each in files.items() if key not in (_RECORD, _KEPT)))
            if not owner and len(unread) < _READ:
                unread.append(id)
        self._sweep_spool(now)
        with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
            for id, owner in zip(unread, pool.map(self._owner, unread), strict=True):
                held[id] = Usage(owner, held[id].bytes)
        return held

    def _condemn(self, id: str, kept: StoredObject | None) -> bool:
        """Whether the upload may be deleted: from now on nobody can keep it. False when somebody just did."""
        try:
            self.place.put(f"{id}.{_KEPT}", b"", _JSON, only=kept.tag if kept else "new")
        except (FileExistsError, FileNotFoundError):
            return False  # kept by somebody, or deleted by another's sweep
        return True

    def _delete(self, id: str, files: Mapping[str, StoredObject]) -> None:
        """The record first, so that nobody finds it; the empty mark last, so that until then nobody keeps it."""
        others = [each.key for key, each in files.items() if key not in (_RECORD, _KEPT)]
        for keys in ([f"{id}.{_RECORD}"], others, [f"{id}.{_KEPT}"]):
            self.place.delete(keys)

    def _scan(self) -> dict[str, dict[str, StoredObject]]:
        """By id, and there by what follows the id."""
        found: dict[str, dict[str, StoredObject]] = {}
        for page in self.place.pages():
            for each in page:
                if match := ENTRY.fullmatch(each.key):
                    key = match[2] if match[2] in (_RECORD, _KEPT) else each.key
                    found.setdefault(match[1], {})[key] = each
        return found

    def _sweep_spool(self, now: float) -> None:
        for path in self._spool.iterdir():
            if _PART.fullmatch(path.name) and now - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)

    def _owner(self, id: str) -> str:
        record = self.read(id)
        return record[0] if record else ""

    def check(self) -> None:
        probe = f"{secrets.token_hex(16)}.probe"
        self.place.put(probe, b"?", _JSON)
        self.place.delete([probe])
