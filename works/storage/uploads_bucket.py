"""An UploadStore in a bucket, where objects cannot be renamed.

``ID.record`` names the owner of an upload. ``ID.kept`` exists when a message refers to the upload. Both a request that
keeps an upload and a sweep that deletes it write ``ID.kept``, on the condition that it has not changed since they read
it. So only one of them succeeds. An empty ``ID.kept`` means that the upload is being deleted and cannot be kept any
more.
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
# Records that one sweep reads to find owners, and how many at the same time. The next sweep reads the others.
_READ, _READ_AT_ONCE = 2000, 8
# Conflicts with other writers in a row after which the store is considered faulty.
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
                # Different bytes each time, so the tag changes. A writer that has read the object before must not
                # overwrite it.
                self.place.put(mark, secrets.token_hex(8).encode(), _JSON, only=tag)
            except FileExistsError:
                continue
            self._check_record(id)
            return
        raise OSError(errno.EAGAIN, f"{self.place.url}: {mark} changes all the time")

    def _check_record(self, id: str) -> None:
        """Keeps one upload, even if a sweep has written its mark since the caller found the upload."""
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
        """Claims the upload for deletion. Returns False when another request has kept it in the meantime."""
        try:
            self.place.put(f"{id}.{_KEPT}", b"", _JSON, only=kept.tag if kept else "new")
        except (FileExistsError, FileNotFoundError):
            return False  # kept by a request, or deleted by another sweep
        return True

    def _delete(self, id: str, files: Mapping[str, StoredObject]) -> None:
        """Deletes the record first, so that the upload is not found, and the empty mark last, so that it cannot be
        kept.
        """
        others = [each.key for key, each in files.items() if key not in (_RECORD, _KEPT)]
        for keys in ([f"{id}.{_RECORD}"], others, [f"{id}.{_KEPT}"]):
            self.place.delete(keys)

    def _scan(self) -> dict[str, dict[str, StoredObject]]:
        """Groups objects by id, and within an id by the rest of the name."""
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
