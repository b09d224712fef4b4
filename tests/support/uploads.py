"""Helpers for the tests of Uploads: an upload store with a queue, and functions that send files as a user."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.support import queues
from works.errors import WorkError
from works.imaging.settings import ImageLimits
from works.queue import WorkQueue
from works.storage.address import StoreOptions, StoreThreads
from works.storage.open import open_upload_store
from works.storage.settings import UploadSettings
from works.storage.uploads_store import Attachment
from works.uploads import Uploads

HOUR, MONTH = 3600.0, 30 * 24 * 3600.0


def make_uploads(
    queue: WorkQueue,
    threads: StoreThreads,
    url: str,
    folder: Path,
    options: StoreOptions | None = None,
    **settings: Any,
) -> Uploads:
    """Returns Uploads that store files at this URL and keep their spool in this folder.

    ``settings`` are those of uploads and of pictures.
    """
    limits = {name: settings.pop(name) for name in ImageLimits.model_fields if name in settings}
    store = open_upload_store(url, options or StoreOptions(), folder / "spool")
    return Uploads(store, queue, UploadSettings(uploads=url, **settings), ImageLimits(**limits), threads)


@asynccontextmanager
async def opened(folder: Path, **settings: Any) -> AsyncIterator[Uploads]:
    async with queues.opened(folder, "thread") as queue:
        threads = StoreThreads(4)
        yield make_uploads(queue, threads, f"file:{folder}/uploads", folder, **settings)
        threads.close()


async def send(uploads: Uploads, data: bytes, owner: str = "alice") -> Attachment:
    """Sends the data in pieces, and checks that its temporary files are deleted."""
    upload = uploads.begin(owner)
    try:
        for start in range(0, len(data), 300_000):
            await upload.write(data[start : start + 300_000])
        return await upload.finish()
    finally:
        await upload.discard()
        assert upload.id not in uploads.coming.held


async def refused(uploads: Uploads, data: bytes, owner: str = "alice") -> WorkError:
    with pytest.raises(WorkError) as caught:
        await send(uploads, data, owner)
    return caught.value


def metrics_of(uploads: Uploads) -> CollectorRegistry:
    assert isinstance(uploads.queue, queues.Queue)
    return uploads.queue.figures.registry


async def unknown(uploads: Uploads, owner: str, *ids: str) -> str:
    """Returns the message of the error ``not_found``, which must be the same for ``find``, ``keep`` and ``attach``."""
    messages = set()
    for method in (uploads.find, uploads.keep, uploads.attach):
        with pytest.raises(WorkError) as caught:
            await method(owner, ids)
        assert caught.value.code == "not_found"
        messages.add(caught.value.message)
    (message,) = messages
    return message


def names(uploads: Uploads) -> list[str]:
    return sorted(os.listdir(uploads.place))


def age(uploads: Uploads, id: str, seconds: float) -> None:
    """Makes all files of an upload look older by that many seconds."""
    for path in uploads.place.glob(f"*{id}*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))
