"""A JobContext for the tests that records the calls of the job. Its queue, media store and uploads are real."""

import asyncio
import csv
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import queues
from tests.support.jobs import make_resources
from tests.support.uploads import make_uploads
from works.errors import Busy, WorkError
from works.imaging.task import Result, Task
from works.jobs import JobFailed, find, load
from works.jobs.resources import JobResources
from works.storage.address import StoreOptions, StoreThreads
from works.storage.results import ResultStore

load()


class Recording:
    """A JobContext that records calls: ``reports`` has them in order, ``states`` has the last state of each target."""

    id, user = "job", "alice"
    only: frozenset[str] | None = None

    def __init__(self, resources: JobResources, queue: queues.Queue, folder: Path) -> None:
        self.resources, self.queue = resources, queue
        self.reports: list[tuple[Any, ...]] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.in_flight = self.most_in_flight = 0
        self._folder = folder

    async def stage(self, name: str) -> None:
        self.reports.append(("stage", name))

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        self.reports.append(("progress", done, failed, total))

    async def log(self, line: str, target: str = "") -> None:
        self.reports.append(("log", line))

    async def target(self, name: str, state: str, **more: Any) -> None:
        self.reports.append(("target", name, state))
        self.states[name] = {"state": state, **more}

    async def run(self, task: Task) -> Result:
        self.in_flight += 1
        self.most_in_flight = max(self.in_flight, self.most_in_flight)
        try:
            while True:
                try:
                    return await self.queue.submit(replace(task, session="job", background=True))
                except Busy:
                    await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.queue.cancel("job", id=task.id)
            raise
        finally:
            self.in_flight -= 1

    async def approve(self, question: str, **more: Any) -> str:
        return self.user

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        size = file.stat().st_size
        return {
            "name": name,
            "url": f"/media/{self.resources.results.put_file(file, Path(name).suffix)}",
            "bytes": size,
        }

    def folder(self) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder

    @property
    def media(self) -> ResultStore:
        return self.resources.results

    async def do(self, name: str, **params: Any) -> dict[str, Any]:
        """Runs the job and returns its result. The parameters are checked like those of a user."""
        kind = find(name)
        result = await kind.function(self, kind.check(params))
        assert result is not None
        return json.loads(json.dumps(result))  # type: ignore[no-any-return]

    async def failure(self, name: str, **params: Any) -> WorkError | JobFailed:
        with pytest.raises((WorkError, JobFailed)) as caught:
            await self.do(name, **params)
        return caught.value

    def file(self, result: dict[str, Any], name: str) -> bytes:
        (kept,) = [each for each in result["files"] if each["name"] == name]
        data = self.media.read(kept["url"].rpartition("/")[2])
        assert len(data) == kept["bytes"]
        return data

    def rows(self, result: dict[str, Any]) -> list[dict[str, Any]]:
        return json.loads(self.file(result, "table.json"))  # type: ignore[no-any-return]

    def cells(self, result: dict[str, Any]) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.file(result, "table.csv").decode("utf-8-sig"), newline="")))

    def unzipped(self, result: dict[str, Any]) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(self.file(result, "results.zip"))) as file:
            assert file.testzip() is None
            return {name: file.read(name) for name in file.namelist()}

    async def upload(self, data: bytes, owner: str = "alice", called: str = "") -> str:
        """Uploads ``data`` and returns the id of the upload."""
        upload = self.resources.uploads.begin(owner, called=called)
        try:
            await upload.write(data)
            return (await upload.finish()).id
        finally:
            await upload.discard()


@asynccontextmanager
async def recording(
    folder: Path, workers: int = 2, bucket: str = "", store: StoreOptions | None = None, **settings: Any
) -> AsyncIterator[Recording]:
    """Opens a Recording. Its queue decodes in child processes, as the server does; ``scans`` is a folder of the
    settings.

    ``bucket`` is the URL where uploads are stored; by default they are on the disk.
    """
    (folder / "scans").mkdir(exist_ok=True)
    async with queues.opened(folder, workers=workers) as queue:
        threads = StoreThreads(4)
        uploads = make_uploads(queue, threads, bucket or f"file:{folder}/uploads", folder, store)
        resources = make_resources(queue.media, uploads, threads, folders=(f"scans={folder}/scans",), **settings)
        yield Recording(resources, queue, folder / "scratch")
        threads.close()
