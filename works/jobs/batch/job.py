"""The job kind ``batch``: an action on a folder, a zip or a list of uploads, picture by picture through the queue.

Only pictures that are being processed are in memory. A picture that fails is reported and counted, and the others
continue, up to ``max_failed``. The result is a zip of the pictures, a contact sheet, and a table as CSV and JSON.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from works.errors import WorkError
from works.imaging import actions
from works.imaging.task import Format, Task
from works.jobs import JobContext, JobFailed, job
from works.jobs.batch.contact_sheet import PICTURE
from works.jobs.batch.in_order import in_order
from works.jobs.batch.inputs import Picture, Pictures, find_uploads, folder_pictures, local_path, upload_pictures
from works.jobs.batch.results import BatchResults, PictureOutcome, keep_all
from works.jobs.batch.zip_input import open_archive
from works.jobs.helpers import HelperProcesses
from works.validation import StrictModel


class ActionParams(StrictModel):
    """An action and its options, checked before the job starts."""

    model_config = ConfigDict(frozen=False)

    action: str = Field("resize", description="Action on each picture.")
    options: dict[str, Any] = Field(default_factory=dict, description="Options of the action, by name.")

    @model_validator(mode="after")
    def _known(self) -> "ActionParams":
        try:
            self.action = actions.find(self.action).name
            self.options = actions.check(self.action, self.options)
        except WorkError as error:
            raise ValueError(error.message) from None
        return self


class BatchParams(ActionParams):
    folder: str = Field(
        "",
        description="Folder of the server with the pictures (setting folders). Or set zip or uploads.",
        json_schema_extra={"from": "folders"},
    )
    match: str = Field(
        "*", max_length=200, description="Pattern of the names of pictures in the folder, such as *.jpg."
    )
    zip: str = Field("", description="Id of an uploaded zip with the pictures.")
    # as many ids as fit into the parameters of a job
    uploads: list[str] = Field(
        [], max_length=1800, description="Ids of uploaded pictures. Send more than this in a zip."
    )
    zoom: float = Field(1.0, gt=0, description="Factor of the size. 0.5 halves both sides.")
    fit: str = Field(
        "",
        pattern=r"^([1-9]\d{0,4}x[1-9]\d{0,4})?$",
        description="Box in pixels that the pictures must fit into, such as 800x600. It replaces zoom.",
    )
    format: Format = "auto"
    pictures: bool = Field(True, description="true stores the resulting pictures, false only the table of findings.")
    sheet: bool = Field(True, description="true makes a contact sheet with a thumbnail of each picture.")
    max_failed: int | None = Field(
        None, ge=0, description="Pictures that may fail. One more stops the job. Empty: any number."
    )

    @model_validator(mode="after")
    def _one_source(self) -> "BatchParams":
        if sum(map(bool, (self.folder, self.zip, self.uploads))) != 1:
            raise ValueError("set one of folder, zip and uploads")
        if not self.pictures and not actions.find(self.action).gives_data:
            raise ValueError(f"pictures: {self.action} has no findings for a table; leave pictures on")
        return self


@job
async def batch(context: JobContext, params: BatchParams) -> dict[str, Any]:
    """Runs an action on many pictures. The result is a zip of pictures, a contact sheet, and a table of the
    findings.
    """
    await context.stage("reading")
    async with AsyncExitStack() as stack:
        pictures = await _open(context, params)
        stack.push_async_callback(asyncio.to_thread, pictures.close)
        if pictures.skipped:
            await context.log(f"{pictures.skipped:,} files were skipped, because their names are not those of pictures")
        items = await _wanted(context, pictures.items)
        sheet = None
        if params.sheet:
            helpers = await stack.enter_async_context(HelperProcesses(context.resources.helpers))
            sheet = helpers.start("sheet")
        results = BatchResults(context.folder(), sheet, context.resources.batch.sheet_pages)
        stack.push_async_callback(results.close)
        await results.open()
        return await _Batch(context, params, results).run(items)


async def _open(context: JobContext, params: BatchParams) -> Pictures:
    if params.folder:
        return await folder_pictures(context, params.folder, params.match)
    if params.uploads:
        return await upload_pictures(context, params.uploads)
    (attachment,) = await find_uploads(context, [params.zip])
    if attachment.suffix != ".zip":
        raise WorkError("unsupported_format", f"zip: the upload is {attachment.suffix[1:]}, not zip")
    resources = context.resources
    path = await local_path(context, attachment)
    return await asyncio.to_thread(open_archive, path, resources.batch, resources.images.max_slice_bytes)


async def _wanted(context: JobContext, pictures: list[Picture]) -> list[Picture]:
    """Returns the pictures to process: all, or those of a retry."""
    only = context.only
    items = [picture for picture in pictures if only is None or picture.name in only]
    for name in sorted((only or frozenset()) - {picture.name for picture in items}):
        await context.target(name, "failed", code="not_found", message="the picture no longer exists")
    if not items:
        raise JobFailed("not_found", "there are no pictures to process")
    for picture in items:
        await context.target(picture.name, "not_started")
    return items


class _Batch:
    def __init__(self, context: JobContext, params: BatchParams, results: BatchResults) -> None:
        self._context, self._params, self._results = context, params, results
        width, _, height = params.fit.partition("x")
        self._fit = (int(width), int(height)) if params.fit else None
        self._deliver: Literal["inline", "data"] = "inline" if params.pictures else "data"
        self._failed = 0

    async def run(self, items: list[Picture]) -> dict[str, Any]:
        """Processes the pictures and returns the result. Raises JobFailed when too many failed."""
        context, results = self._context, self._results
        await context.stage("working")
        await context.progress(0, 0, len(items))
        reason = ""
        async with aclosing(in_order(_each(items), self._work, context.resources.settings.job_tasks)) as outcomes:
            async for (_, picture), outcome in outcomes:
                await results.add(picture.name, outcome)
                await self._report(picture, outcome)
                await context.progress(results.count, self._failed, len(items))
                if reason := self._stop_reason():
                    break
        await context.stage("packing")
        result = await self._result(len(items))
        if reason:
            raise JobFailed("too_many_failed" if self._failed else "too_large", reason, result)
        if self._failed == results.count:
            raise JobFailed(
                "too_many_failed", f"all {self._failed:,} pictures failed; the table has the reasons", result
            )
        return result

    async def _work(self, entry: tuple[int, Picture]) -> PictureOutcome:
        """Processes one picture. Raises OSError or WorkError only for errors that do not concern the picture."""
        number, picture = entry
        params = self._params
        try:
            data = await asyncio.to_thread(picture.read)
            task = Task(
                "",
                str(number),
                data,
                action=params.action,
                options=params.options,
                zoom=params.zoom,
                fit=self._fit,
                format=params.format,
                deliver=self._deliver,
            )
            result = await self._context.run(task)
            thumbnail = b""
            if params.sheet:
                source = result.payload or data
                fit = Task("", f"{number} small", source, fit=(PICTURE, PICTURE), format="jpeg", deliver="inline")
                thumbnail = (await self._context.run(fit)).payload
            return PictureOutcome(result, thumbnail)
        except WorkError as error:
            if error.code == "cancelled":  # the queue is closing, or the job is cancelled
                raise
            return PictureOutcome(error=error)

    async def _report(self, picture: Picture, outcome: PictureOutcome) -> None:
        if outcome.error:
            self._failed += 1
            error = outcome.error
            await self._context.target(picture.name, "failed", code=error.code, message=error.message)
        else:
            await self._context.target(picture.name, "ok")

    def _stop_reason(self) -> str:
        """Returns why the batch must stop early, or an empty string."""
        most, settings = self._params.max_failed, self._context.resources.batch
        if most is not None and self._failed > most:
            return f"stopped: more than {most:,} pictures failed (max_failed)"
        if self._results.bytes > settings.batch_bytes:
            return f"stopped: the results have more than {settings.batch_bytes:,} bytes (batch_bytes)"
        return ""

    async def _result(self, total: int) -> dict[str, Any]:
        context, results = self._context, self._results
        await results.finish()
        for note in results.notes:
            await context.log(note)
        files = [results.table.csv, results.table.json, *([results.zip] if results.results else []), *results.pages]
        kept = await keep_all(context, files)
        return {"pictures": total, "done": results.count, "failed": self._failed, "notes": results.notes, "files": kept}


async def _each(items: list[Picture]) -> AsyncGenerator[tuple[int, Picture], None]:
    for entry in enumerate(items, 1):
        yield entry
