"""The results of a batch, written to the disk as they arrive: a zip of pictures, a table, pages of a contact sheet.

They are not held in memory. A single thread writes them, so no file is written while it is being closed.
"""

import asyncio
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from works.errors import WorkError
from works.imaging.codec import SUFFIX
from works.imaging.task import Result
from works.jobs import JobContext
from works.jobs.batch.contact_sheet import PER_PAGE
from works.jobs.batch.table import Table
from works.jobs.helpers import Helper

T = TypeVar("T")

COLUMNS = (
    "number",
    "picture",
    "state",
    "result",
    "width",
    "height",
    "bytes",
    "work_ms",
    "found",
    "data",
    "code",
    "message",
)
# Suffix of a picture -> suffix of its result in the same format.
_SAME = {".jpg": ".jpg", ".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".png": ".png", ".webp": ".webp"}


@dataclass(frozen=True, slots=True)
class PictureOutcome:
    """The result of one picture with its thumbnail, or its error."""

    result: Result | None = None
    thumbnail: bytes = b""
    error: WorkError | None = None


class BatchResults:
    """``bytes``: size of all results so far. It must always be closed."""

    def __init__(self, folder: Path, sheet: Helper | None, pages: int) -> None:
        self._folder, self._sheet, self._most_pages = folder, sheet, pages
        self.bytes = self.count = self.results = 0
        self.pages: list[Path] = []
        self.notes: list[str] = []
        self._on_page = 0
        self._names: set[str] = set()
        self._thread = ThreadPoolExecutor(1, "sluice-batch")
        self.zip = folder / "results.zip"
        self._zip: zipfile.ZipFile | None = None
        self.table: Table

    async def open(self) -> None:
        self.table = await self._write(Table, self._folder, COLUMNS)

    async def add(self, name: str, outcome: PictureOutcome) -> None:
        """Adds results in the order of the pictures. Raises WorkError when the disk is full."""
        self.count += 1
        await self._write(self._add, name, outcome)
        if self._sheet and len(self.pages) < self._most_pages:
            await self._add_to_sheet(self._sheet, f"{self.count} {PurePosixPath(name).name}", outcome)

    async def _add_to_sheet(self, sheet: Helper, title: str, outcome: PictureOutcome) -> None:
        """Adds a thumbnail to the contact sheet. A sheet that cannot be made does not end the batch."""
        try:
            await sheet.call("add", outcome.thumbnail, title=title, note=outcome.error.code if outcome.error else "")
            self._on_page += 1
            if self._on_page == PER_PAGE:
                await self._finish_page()
        except WorkError as error:
            self.notes.append(f"the contact sheet ends before picture {self.count:,}: {error.message}")
            self._sheet, self._on_page = None, 0

    def _add(self, name: str, outcome: PictureOutcome) -> None:
        row: dict[str, Any] = {"number": self.count, "picture": name, "state": "failed" if outcome.error else "ok"}
        if result := outcome.result:
            row |= {"width": result.width, "height": result.height, "work_ms": round(result.work_ms, 1)}
            if result.payload:
                row |= {"result": self._store(name, result), "bytes": len(result.payload)}
            if result.data is not None:
                row |= {"found": sum(len(items) for items in result.data.values()), "data": result.data}
        if outcome.error:
            row |= {"code": outcome.error.code, "message": outcome.error.message}
        self.table.add(row)

    def _store(self, name: str, result: Result) -> str:
        """Adds the picture to the zip. It is stored without compression, because pictures are compressed. Returns its
        name there.
        """
        if self._zip is None:
            self._zip = zipfile.ZipFile(self.zip, "w", zipfile.ZIP_STORED)
        entry = zipfile.ZipInfo(self._name(name, SUFFIX[result.format]), time.localtime()[:6])
        entry.external_attr = 0o644 << 16
        self._zip.writestr(entry, result.payload)
        self.bytes += len(result.payload)
        self.results += 1
        return entry.filename

    def _name(self, name: str, suffix: str) -> str:
        """Returns the source's name with the suffix of the result, unique regardless of case."""
        end = PurePosixPath(name).suffix
        stem = name.removesuffix(end) if end.lower() in _SAME else name
        end = end if _SAME.get(end.lower()) == suffix else suffix
        unique, count = stem + end, 1
        while unique.casefold() in self._names:
            count += 1
            unique = f"{stem}-{count}{end}"
        self._names.add(unique.casefold())
        return unique

    async def _finish_page(self) -> None:
        """Writes a full page, or the last page."""
        assert self._sheet
        _, page = await self._sheet.call("page")
        path = self._folder / f"sheet-{len(self.pages) + 1}.jpg"
        await self._write(path.write_bytes, page)
        self.pages.append(path)
        self._on_page = 0

    async def finish(self) -> None:
        """Completes all files."""
        if self._on_page:
            await self._finish_page()
        await self._write(self.table.finish)
        if self._zip:
            await self._write(self._zip.close)

    async def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(*arguments))
        except OSError as error:
            raise WorkError("internal", f"the results cannot be written: {error.strerror}", temporary=True) from None

    async def close(self) -> None:
        self._thread.submit(self._close)
        await asyncio.to_thread(self._thread.shutdown)

    def _close(self) -> None:
        for file in (self._zip, getattr(self, "table", None)):
            with suppress(OSError):  # a full disk was reported before
                if file:
                    file.close()


async def keep_all(context: JobContext, files: Sequence[Path]) -> list[dict[str, Any]]:
    """Stores all results, or none. Raises WorkError when the store is full."""
    kept: list[dict[str, Any]] = []
    try:
        for file in files:
            kept.append(await context.keep(file, file.name))  # noqa: PERF401, the names of stored files are needed below
    except BaseException as error:
        for each in kept:
            await context.resources.threads.run(context.resources.results.delete, each["url"].rpartition("/")[2])
        if isinstance(error, OSError):
            raise WorkError("internal", f"the results cannot be stored: {error.strerror}", temporary=True) from None
        raise
    return kept
