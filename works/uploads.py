"""Uploads: pictures, audio and video that users send to refer to them later, whole and recognised or not at all.

Each has an owner, and only the owner can refer to it. One that nobody refers to goes after ``upload_grace``, any
other ``upload_ttl`` after the last message that did. How many a user may send at once, and how many bytes a user and
all users may have here, is bounded; over it, Busy.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from works.errors import Busy, WorkError
from works.imaging.image_header import read_header
from works.imaging.settings import ImageLimits
from works.imaging.task import Task
from works.queue import WorkQueue
from works.storage.address import RemoteFiles, StoreThreads
from works.storage.filetype import FILE_TYPES, GIF, FileType, detect, gif_size
from works.storage.settings import UploadSettings
from works.storage.uploads_store import Attachment, UploadStore, Usage

# Width and height within which a thumbnail fits.
THUMBNAIL = (512, 512)
# Bytes collected before a thread is asked to write them.
_AT_ONCE = 256 << 10
# Characters that are kept of what a user calls a file.
_LONGEST_NAME = 200
# Milliseconds after which to ask again: when an upload may have ended; when what nobody refers to may be swept.
_SOON, _LATER = 1000, 60_000


class Ledger:
    """Who takes up how many bytes: of each upload, of each owner, of all."""

    def __init__(self) -> None:
        self.held: dict[str, Usage] = {}
        self.total = 0
        self._bytes: Counter[str] = Counter()
        self._count: Counter[str] = Counter()

    def set(self, id: str, held: Usage) -> None:
        self.drop(id)
        self.held[id] = held
        self._change(held.owner, held.bytes, 1)

    def drop(self, id: str) -> None:
        if held := self.held.pop(id, None):
            self._change(held.owner, -held.bytes, -1)

    def bytes_of(self, owner: str) -> int:
        return self._bytes[owner]

    def count_of(self, owner: str) -> int:
        return self._count[owner]

    def _change(self, owner: str, bytes: int, count: int) -> None:
        self.total += bytes
        self._bytes[owner] += bytes
        self._count[owner] += count
        if not self._count[owner]:
            del self._bytes[owner], self._count[owner]


class Uploads:
    """`threads` wait for the store; pictures among the uploads are bounded by `images`."""

    def __init__(
        self,
        store: UploadStore,
        queue: WorkQueue,
        settings: UploadSettings,
        images: ImageLimits,
        threads: StoreThreads,
    ) -> None:
        self.store, self.queue, self.settings, self.images, self.threads = store, queue, settings, images, threads
        self.coming, self.there = Ledger(), Ledger()

    @property
    def place(self) -> Path | RemoteFiles:
        return self.store.place

    def begin(self, owner: str, length: int = 0, called: str = "") -> "Upload":
        """An upload of, it is said, so many bytes, of a file that the owner calls so; ``discard`` must follow.

        Raises Busy, or WorkError too_large.
        """
        most = self.settings.uploads_per_user
        if self.coming.count_of(owner) >= most:
            raise Busy(f"{most} uploads of this user are under way (uploads_per_user)", _SOON)
        upload = Upload(self, owner, called[-_LONGEST_NAME:])
        self.check_room(upload, length)
        self.coming.set(upload.id, Usage(owner, 0))
        return upload

    def check_room(self, upload: "Upload", more: int) -> None:
        """Raises Busy or WorkError too_large when the upload must not grow by so much."""
        bounds, owner = self.settings, upload.owner
        if upload.size + more > bounds.upload_bytes:
            raise WorkError("too_large", f"at most {bounds.upload_bytes:,} bytes are taken (upload_bytes)")
        most = bounds.upload_bytes_per_user
        if self.coming.bytes_of(owner) + self.there.bytes_of(owner) + more > most:
            raise Busy(f"this user's uploads would have more than {most:,} bytes (upload_bytes_per_user)", _LATER)
        most = bounds.upload_bytes_total
        if self.coming.total + self.there.total + more > most:
            raise Busy(f"all uploads would have more than {most:,} bytes (upload_bytes_total)", _LATER)

    async def find(self, owner: str, ids: Sequence[str]) -> list[Attachment]:
        """The attachments of these ids. Raises WorkError not_found for one that is not there or not this owner's."""
        try:
            return await self.threads.run(self._find, owner, ids)
        except OSError as error:
            raise _unreachable(error) from None

    def _find(self, owner: str, ids: Sequence[str]) -> list[Attachment]:
        found = [(id, self.store.read(id)) for id in ids]
        for id, record in found:
            if record is None or record[0] != owner:
                raise _unknown(id)
        return [record[1] for _, record in found if record]

    async def keep(self, owner: str, ids: Sequence[str]) -> None:
        """Something refers to them: they stay for ``upload_ttl`` from now. Raises WorkError as ``find`` does."""
        await self.find(owner, ids)
        try:
            await self.threads.run(self.store.keep, ids)
        except FileNotFoundError as error:
            raise _unknown(Path(error.filename).stem) from None
        except OSError as error:
            raise _unreachable(error) from None

    async def attach(self, owner: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Finds and keeps them, for a message that is about to be stored; what it says of them. Raises WorkError."""
        attachments = await self.find(owner, ids)
        if any(FILE_TYPES[attachment.suffix].group == "archive" for attachment in attachments):
            raise WorkError("bad_message", "attachments: a zip is for jobs; send what is in it")
        await self.keep(owner, ids)
        return [attachment.as_dict() for attachment in attachments]

    async def check(self) -> None:
        """Raises OSError unless an upload could be stored now."""
        await self.threads.run(self.store.check)

    async def sweep(self) -> None:
        """Deletes what has had its time. To be called every minute or so."""
        gone, new = await self.threads.run(self._sweep, dict(self.there.held))
        for id in gone:
            self.there.drop(id)
        for id, held in new:
            self.there.set(id, held)

    def _sweep(self, known: dict[str, Usage]) -> tuple[set[str], set[tuple[str, Usage]]]:
        held = self.store.sweep(self.settings.upload_grace, self.settings.upload_ttl, known)
        return known.keys() - held.keys(), held.items() - known.items()


class Upload:
    """One that is coming in: written piece by piece, finished, and in every case discarded, which ends it."""

    def __init__(self, uploads: Uploads, owner: str, called: str) -> None:
        self.owner, self.id, self.size = owner, secrets.token_hex(16), 0
        self._called = called
        self._uploads, self._store = uploads, uploads.store
        # All of a user's thumbnails take turns with other sessions as one, and share one session's bounds.
        self._queue_session = f"upload/{owner}"
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._end: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()

    async def write(self, chunk: bytes) -> None:
        """Raises WorkError, Busy among them, when it must not grow so large, or the disk is full."""
        self._check_open()
        self._uploads.check_room(self, len(chunk))
        self.size += len(chunk)
        self._uploads.coming.set(self.id, Usage(self.owner, self.size))
        self._buffer += chunk
        if len(self._buffer) >= _AT_ONCE:
            await self._in_thread(self._write)

    def _write(self) -> None:
        if self._file is None:
            # Unbuffered: what failed to be written is not tried again at the close.
            self._file = self._store.part(self.id).open("w+b", buffering=0)
        while self._buffer:
            del self._buffer[: self._file.write(self._buffer)]

    async def finish(self) -> Attachment:
        """All of it has come. Raises WorkError for what is none of the kinds, and for a picture that is damaged."""
        if not self.size:
            raise WorkError("bad_message", "the body is empty; send a file")
        kind = await self._in_thread(self._recognise)
        attachment, thumbnail = Attachment(self.id, kind.suffix, self.size), b""
        if kind.group == "image":
            attachment, thumbnail = await self._picture(kind)
        attachment = replace(attachment, called=self._called)
        await self._in_thread(self._store.add, self.owner, attachment, thumbnail)
        self._uploads.there.set(self.id, Usage(self.owner, self.size + len(thumbnail)))
        return attachment

    def _recognise(self) -> FileType:
        self._write()
        assert self._file
        self._file.seek(0)
        return detect(self._file)

    async def _picture(self, kind: FileType) -> tuple[Attachment, bytes]:
        """A picture goes the way of every slice, so it is refused for what they are; its thumbnail comes back."""
        most = self._uploads.images.max_slice_bytes
        if self.size > most:
            raise WorkError("too_large", f"pictures may have {most:,} bytes (max_slice_bytes)")
        data, (width, height) = await self._in_thread(self._measure, kind)
        if kind == GIF:
            # No decoder of ours takes more than one frame; browsers show it small as well.
            return Attachment(self.id, kind.suffix, self.size, width, height), b""
        task = Task(self._queue_session, self.id, data, fit=THUMBNAIL, format="webp", deliver="inline")
        result = await self._uploads.queue.submit(task)
        return Attachment(self.id, kind.suffix, self.size, width, height, has_thumbnail=True), result.payload

    def _measure(self, kind: FileType) -> tuple[bytes, tuple[int, int]]:
        assert self._file
        self._file.seek(0)
        data = self._file.read()
        if kind != GIF:
            return data, read_header(data).upright
        width, height = gif_size(data)
        if width * height > (most := self._uploads.images.max_pixels):
            raise WorkError("too_many_pixels", f"the picture has {width} x {height}; at most {most:,} pixels are taken")
        return data, (width, height)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        """One at a time, and none after the end. Raises WorkError for a disk that is full or gone."""
        async with self._disk:
            self._check_open()
            try:
                return await self._uploads.threads.run(work, *arguments)
            except OSError as error:
                why = f"the upload could not be stored: {error.strerror}"
                raise WorkError("internal", why, temporary=True) from None

    def _check_open(self) -> None:
        if self._end:
            raise WorkError("cancelled", "the client did not wait")

    def discard(self) -> "asyncio.Task[None]":
        """The end, however it came about: only what is finished stays. The task: until all else is cleared away."""
        if self._end is None:
            self._uploads.queue.cancel(self._queue_session, id=self.id)
            self._end = asyncio.create_task(self._clear())
        return self._end

    async def _clear(self) -> None:
        async with self._disk:
            await self._uploads.threads.run(self._delete)
        self._uploads.coming.drop(self.id)

    def _delete(self) -> None:
        if self._file:
            self._file.close()
        self._store.part(self.id).unlink(missing_ok=True)


def _unknown(id: str) -> WorkError:
    return WorkError("not_found", f"attachments: {id[:40]!r} is no upload of yours, or no longer kept")


def _unreachable(error: OSError) -> WorkError:
    return WorkError("internal", f"the uploads cannot be read: {error.strerror}", temporary=True)
