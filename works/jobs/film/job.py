"""The job kind ``film``: an action on a video, frame by frame and in order. The result is a film that browsers play.

One process decodes the film and another encodes the new one. In between, the frames go through the queue like slices.
Only frames that are being processed are in memory. Sound is dropped. Nothing is stored before the end.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from works.errors import WorkError
from works.imaging import actions
from works.imaging.task import Format, Result, Task
from works.jobs import JobContext, JobFailed, job
from works.jobs.batch.in_order import in_order
from works.jobs.batch.inputs import find_file, find_uploads, local_path
from works.jobs.batch.job import ActionParams
from works.jobs.batch.results import keep_all
from works.jobs.batch.table import Table
from works.jobs.helpers import Helper, HelperProcesses

_COLUMNS = ("frame", "seconds", "state", "found", "data", "code", "message")


class FilmParams(ActionParams):
    upload: str = Field("", description="Id of an uploaded video. Set either this, or folder and file.")
    folder: str = Field(
        "", description="Folder of the server with the video (setting folders).", json_schema_extra={"from": "folders"}
    )
    file: str = Field("", max_length=1000, description="Path of the video in the folder.")
    every: int = Field(
        1,
        ge=1,
        le=100_000,
        description="Use one of this many frames. More makes the job faster and the film less smooth.",
    )
    start: float = Field(0, ge=0, description="Start in seconds from the beginning of the video.")
    end: float | None = Field(None, gt=0, description="End in seconds from the beginning of the video. Empty: its end.")
    width: int | None = Field(
        None,
        ge=16,
        le=16_000,
        description="Largest width of the new film in pixels. Wider frames are reduced. Empty: as in the video.",
    )
    quality: Literal["high", "lossless"] = Field(
        "high", description="high passes frames to the action as good JPEG, lossless as PNG, which is slower."
    )
    max_failed: int | None = Field(
        0,
        ge=0,
        description="Frames that may fail; each shows the frame before it. One more stops the job. Empty: any number.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "FilmParams":
        if bool(self.upload) == bool(self.folder) or bool(self.folder) != bool(self.file):
            raise ValueError("set either upload, or folder and file")
        if self.end is not None and self.end <= self.start:
            raise ValueError("end: must be greater than start")
        return self


@dataclass(frozen=True, slots=True)
class FilmFrame:
    number: int
    at: float
    picture: bytes = field(repr=False)


@job
async def film(context: JobContext, params: FilmParams) -> dict[str, Any]:
    """Runs an action on every frame of a video. The result is a new film (WebM, without sound)."""
    await context.stage("opening")
    path = await _source(context, params)
    async with AsyncExitStack() as stack:
        helpers = await stack.enter_async_context(HelperProcesses(context.resources.helpers))
        work = _Film(context, params, helpers.start("reader"), helpers.start("writer"))
        if actions.find(params.action).gives_data:
            work.table = Table(context.folder(), _COLUMNS)
            stack.callback(work.table.close)
        await work.open(path)
        return await work.run()


async def _source(context: JobContext, params: FilmParams) -> Path:
    if params.folder:
        return find_file(context, params.folder, params.file)
    (attachment,) = await find_uploads(context, [params.upload])
    return await local_path(context, attachment)


class _Film:
    table: Table | None = None

    def __init__(self, context: JobContext, params: FilmParams, reader: Helper, writer: Helper) -> None:
        self._context, self._params, self._reader, self._writer = context, params, reader, writer
        self._settings = context.resources.film
        self._format: Format = "jpeg" if params.quality == "high" else "png"
        self._path = context.folder() / "film.webm"
        self._done = self._failed = self._missed = 0
        self._end: dict[str, Any] = {}
        self._notes: list[str] = []

    async def open(self, path: Path) -> None:
        """Opens the film. Raises WorkError for a file that is not a video, or that exceeds a limit."""
        params, settings = self._params, self._settings
        self._info, _ = await self._reader.call(
            "open",
            path=str(path),
            max_pixels=settings.film_pixels,
            start=params.start,
            end=params.end,
            every=params.every,
            width=params.width,
            suffix=".jpg" if self._format == "jpeg" else ".png",
        )
        info = self._info
        self._fps = info["fps"] / params.every
        end = min(params.end or info["seconds"], info["seconds"])
        self._total = -(-round(max(end - params.start, 0) * info["fps"]) // params.every) if info["frames"] else None
        if self._total and self._total > settings.film_frames:
            most = f"at most {settings.film_frames:,} are accepted (film_frames); use every, start or end"
            raise WorkError("too_large", f"the film has {self._total:,} frames; {most}")
        size = f"{info['width']} x {info['height']}"
        await self._context.log(
            f"{size}, {info['fps']:.5g} frames a second, {info['seconds']:.5g} s; its sound is dropped"
        )

    async def run(self) -> dict[str, Any]:
        """Processes the frames and returns the result. Raises JobFailed when no frame could be processed."""
        context = self._context
        await context.stage("working")
        await context.progress(0, 0, self._total)
        async with aclosing(in_order(self._frames(), self._work, context.resources.settings.job_tasks)) as worked:
            async for frame, outcome in worked:
                await self._add(frame, outcome)
                await context.progress(self._done, self._failed, self._total)
        if self._done == self._failed:
            raise JobFailed("bad_image", "no frame could be processed" if self._done else self._nothing())
        await context.stage("finishing")
        return await self._result()

    async def _frames(self) -> AsyncGenerator[FilmFrame, None]:
        count, last, most = 0, 0.0, self._settings.film_frames
        while True:
            try:
                info, picture = await self._reader.call("next")
            except WorkError as error:
                if not count:
                    raise
                self._notes.append(f"no frame can be read after {last:.3f} s: {error.message}")
                return
            if "end" in info:
                self._end = info
                return
            if "at" not in info:
                continue
            if count == most:
                self._notes.append(f"cut after {most:,} frames (film_frames)")
                return
            count, last = count + 1, info["at"]
            yield FilmFrame(info["frame"], info["at"], picture)

    async def _work(self, frame: FilmFrame) -> Result | WorkError:
        params = self._params
        task = Task(
            "",
            str(frame.number),
            frame.picture,
            action=params.action,
            options=params.options,
            format=self._format,
            deliver="inline",
        )
        try:
            return await self._context.run(task)
        except WorkError as error:
            if error.code == "cancelled":  # the queue is closing, or the job is cancelled
                raise
            return error

    async def _add(self, frame: FilmFrame, outcome: Result | WorkError) -> None:
        """Appends the frame to the film. Repeats the previous frame when this one has failed."""
        self._done += 1
        if isinstance(outcome, WorkError):
            await self._count(frame, outcome)
            if self._done == self._failed:
                self._missed += 1  # there is no previous frame to repeat
            else:
                await self._write(b"", 1)
        else:
            await self._write(outcome.payload, 1 + self._missed)
            self._missed = 0
        if self.table:
            self.table.add(_row(frame, outcome))

    async def _count(self, frame: FilmFrame, error: WorkError) -> None:
        self._failed += 1
        await self._context.log(f"frame {frame.number} at {frame.at:.3f} s failed: {error.code}: {error.message}")
        most = self._params.max_failed
        if most is not None and self._failed > most:
            why = f"frame {frame.number} at {frame.at:.3f} s: {error.message}"
            raise JobFailed(error.code if most == 0 else "too_many_failed", f"{why} (max_failed is {most:,})")

    async def _write(self, picture: bytes, times: int) -> None:
        summary, _ = await self._writer.call("write", picture, path=str(self._path), fps=self._fps, times=times)
        if summary["bytes"] > self._settings.film_bytes:
            most = f"{self._settings.film_bytes:,} bytes (film_bytes)"
            raise JobFailed("too_large", f"the film has more than {most}; use width, every, start or end")

    async def _result(self) -> dict[str, Any]:
        context = self._context
        summary, _ = await self._writer.call("finish")
        files = [self._path]
        if self.table:
            self.table.finish()
            files += [self.table.csv, self.table.json]
        self._note_early_end()
        for note in self._notes:
            await context.log(note)
        kept = await keep_all(context, files)
        seconds = round(summary["frames"] / self._fps, 3)
        summary |= {"failed": self._failed, "fps": round(self._fps, 5), "seconds": seconds, "sound": False}
        return {**summary, "notes": self._notes, "files": kept}

    def _note_early_end(self) -> None:
        """Notes when a film has fewer frames than it declares, because it is incomplete or damaged."""
        frames, seen = self._info["frames"], self._end.get("seen")
        if seen is not None and not self._end.get("reached") and frames - seen > max(1, frames // 100):
            self._notes.append(f"the film ends early: of {frames:,} frames, {seen:,} were found")

    def _nothing(self) -> str:
        where = f"between {self._params.start:g} s and its end" if self._end.get("seen") else "that can be read"
        return f"the film has no frame {where}"


def _row(frame: FilmFrame, outcome: Result | WorkError) -> dict[str, Any]:
    row: dict[str, Any] = {"frame": frame.number, "seconds": round(frame.at, 3)}
    if isinstance(outcome, WorkError):
        return row | {"state": "failed", "code": outcome.code, "message": outcome.message}
    data = outcome.data or {}
    return row | {"state": "ok", "found": sum(map(len, data.values())), "data": data}
