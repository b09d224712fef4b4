"""Uploads: pictures, audio and video that users send to refer to them later. A file is stored only if it is complete
and valid.

Only the owner of an upload can refer to it. An upload without a reference is deleted after ``upload_grace``, any other
``upload_ttl`` after the last message that refers to it. The number of concurrent uploads per user, and the bytes per
user and of all users, are limited. Beyond a limit, Busy is raised.
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

# Largest width and height of a thumbnail, in pixels.
THUMBNAIL = (512, 512)
# Bytes that are collected before a thread writes them.
_AT_ONCE = 256 << 10
# Maximum number of characters of the user's name for a file that are stored.
_LONGEST_NAME = 200
# retry_after in milliseconds: when another upload may have ended, and when a sweep may have deleted unused uploads.
_SOON, _LATER = 1000, 60_000


class Ledger:
    """Counts the bytes of each upload, of each owner, and in total."""

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
    """`threads` wait for the store. `images` has the limits of uploaded pictures."""

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
        """Starts an upload of ``length`` bytes, as far as the client says. ``called``: the user's name for the file.

        The caller must call ``discard`` at the end. Raises Busy, or WorkError too_large.
        """
        most = self.settings.uploads_per_user
        if self.coming.count_of(owner) >= most:
            raise Busy(f"user already has {most} uploads in progress (uploads_per_user)", _SOON)
        upload = Upload(self, owner, called[-_LONGEST_NAME:])
        self.check_room(upload, length)
        self.coming.set(upload.id, Usage(owner, 0))
        return upload

    def check_room(self, upload: "Upload", more: int) -> None:
        """Checks the limits for ``more`` further bytes. Raises Busy or WorkError too_large."""
        bounds, owner = self.settings, upload.owner
        if upload.size + more > bounds.upload_bytes:
            raise WorkError("too_large", f"upload too large: at most {bounds.upload_bytes:,} bytes (upload_bytes)")
        most = bounds.upload_bytes_per_user
        if self.coming.bytes_of(owner) + self.there.bytes_of(owner) + more > most:
            raise Busy(f"quota exceeded: at most {most:,} bytes of uploads per user (upload_bytes_per_user)", _LATER)
        most = bounds.upload_bytes_total
        if self.coming.total + self.there.total + more > most:
            raise Busy(f"storage full: at most {most:,} bytes of uploads in total (upload_bytes_total)", _LATER)

    async def find(self, owner: str, ids: Sequence[str]) -> list[Attachment]:
        """Returns the attachments with these ids. Raises WorkError not_found for one that does not exist or has another
        owner.
        """
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
        """Restarts the lifetime ``upload_ttl`` of these uploads, because a message refers to them. Raises WorkError as
        ``find``.
        """
        await self.find(owner, ids)
        try:
            await self.threads.run(self.store.keep, ids)
        except FileNotFoundError as error:
            raise _unknown(Path(error.filename).stem) from None
        except OSError as error:
            raise _unreachable(error) from None

    async def attach(self, owner: str, ids: Sequence[str]) -> list[dict[str, Any]]:
        """Finds and keeps uploads for a message that will be stored. Returns their members for clients. Raises
        WorkError.
        """
        attachments = await self.find(owner, ids)
        if any(FILE_TYPES[attachment.suffix].group == "archive" for attachment in attachments):
            raise WorkError("bad_message", "attachments: a zip cannot be attached to a message; attach the files in it")
        await self.keep(owner, ids)
        return [attachment.as_dict() for attachment in attachments]

    async def check(self) -> None:
        """Raises OSError when an upload cannot be stored now."""
        await self.threads.run(self.store.check)

    async def sweep(self) -> None:
        """Deletes expired uploads. To be called about every minute."""
        gone, new = await self.threads.run(self._sweep, dict(self.there.held))
        for id in gone:
            self.there.drop(id)
        for id, held in new:
            self.there.set(id, held)

    def _sweep(self, known: dict[str, Usage]) -> tuple[set[str], set[tuple[str, Usage]]]:
        held = self.store.sweep(self.settings.upload_grace, self.settings.upload_ttl, known)
        return known.keys() - held.keys(), held.items() - known.items()


class Upload:
    """An upload that is being received. It is written in chunks and finished, and must always be discarded
    at the end.
    """

    def __init__(self, uploads: Uploads, owner: str, called: str) -> None:
        self.owner, self.id, self.size = owner, secrets.token_hex(16), 0
        self._called = called
        self._uploads, self._store = uploads, uploads.store
        # All thumbnails of a user take turns with other sessions as one session, and share the limits of one.
        self._queue_session = f"upload/{owner}"
        self._buffer = bytearray()
        self._file: BinaryIO | None = None
        self._end: asyncio.Task[None] | None = None
        self._disk = asyncio.Lock()

    async def write(self, chunk: bytes) -> None:
        """Adds bytes. Raises WorkError (or its subclass Busy) when a limit is reached or the disk is full."""
        self._check_open()
        self._uploads.check_room(self, len(chunk))
        self.size += len(chunk)
        self._uploads.coming.set(self.id, Usage(self.owner, self.size))
        self._buffer += chunk
        if len(self._buffer) >= _AT_ONCE:
            await self._in_thread(self._write)

    def _write(self) -> None:
        if self._file is None:
            # Unbuffered, so that bytes whose write has failed are not written again at the close.
            self._file = self._store.part(self.id).open("w+b", buffering=0)
        while self._buffer:
            del self._buffer[: self._file.write(self._buffer)]

    async def finish(self) -> Attachment:
        """Stores the upload, of which all bytes were written. Raises WorkError for an unsupported file or a damaged
        picture.
        """
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
        """Processes a picture like a slice, so the same limits apply. Returns the attachment and the thumbnail."""
        most = self._uploads.images.max_slice_bytes
        if self.size > most:
            raise WorkError("too_large", f"picture too large: at most {most:,} bytes (max_slice_bytes)")
        data, (width, height) = await self._in_thread(self._measure, kind)
        if kind == GIF:
            # The decoder accepts only one frame. Browsers scale the animation down.
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
            raise WorkError(
                "too_many_pixels", f"the picture is {width} x {height}; at most {most:,} pixels are accepted"
            )
        return data, (width, height)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        """Runs ``work`` in a thread, one call at a time, never after the end. Raises WorkError when the disk fails."""
        async with self._disk:
            self._check_open()
            try:
                return await self._uploads.threads.run(work, *arguments)
            except OSError as error:
                why = f"the upload could not be stored: {error.strerror}; try again later"
                raise WorkError("internal", why, temporary=True) from None

    def _check_open(self) -> None:
        if self._end:
            raise WorkError("cancelled", "the client closed the connection")

    def discard(self) -> "asyncio.Task[None]":
        """Ends the upload and deletes everything that is not finished. The task ends when all is deleted."""
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
    return WorkError("not_found", f"attachments: {id[:40]!r} is not an upload of this user, or is no longer retained")


def _unreachable(error: OSError) -> WorkError:
    return WorkError("internal", f"uploads unavailable: {error.strerror}; try again later", temporary=True)
