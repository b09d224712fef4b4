"""The JobContext of a job that runs here: what it tells goes to its Writer, what it wants done to the queue."""

import asyncio
import json
import random
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from works.errors import Busy, WorkError
from works.events.broker import Event
from works.imaging.task import Result, Task
from works.jobs import JobFailed
from works.jobs.history import dumps
from works.jobs.history_writer import HistoryWriter
from works.jobs.resources import JobResources
from works.queue import WorkQueue

# Characters of a line, of a name or state, and of what is said of a target besides its state.
_LONGEST_LINE, _LONGEST_NAME, _LONGEST_MORE = 4000, 200, 16_000
# What a terminal or a page might take for orders; the tabulator is none. Then the orders of a terminal themselves.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
# The longest that a full queue is left alone, in seconds.
_LONGEST_WAIT = 5.0


class ExecutionContext:
    """A JobContext; the promises stand there. ``ended``: from now on every method raises CancelledError."""

    def __init__(
        self,
        id: str,
        user: str,
        only: frozenset[str] | None,
        resources: JobResources,
        queue: WorkQueue,
        writer: HistoryWriter,
        base_url: str,
    ) -> None:
        self.id, self.user, self.only, self.resources = id, user, only, resources
        self.ended = False
        self._queue, self._writer, self._base_url = queue, writer, base_url
        self._lane = f"job/{id}"
        self._folder = Path(resources.settings.job_folder).resolve() / id
        self._in_flight = asyncio.Semaphore(resources.settings.job_tasks)
        self._left = self._left_besides = resources.settings.job_log_bytes
        self._cut = 0
        self._targets: set[str] = set()
        self._counting: tuple[float, int] | None = None  # since when, and from what number on
        self._asked = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def _check(self) -> None:
        if self.ended:
            raise asyncio.CancelledError("the job has ended")

    async def stage(self, name: str) -> None:
        self._check()
        self._counting = None
        await self._writer.tell({"type": "stage", "name": clean(name)[:_LONGEST_NAME]})

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        self._check()
        event = {"type": "progress", "done": done, "failed": failed, "total": total, "eta_s": self._eta(done, total)}
        await self._writer.tell(event, "progress")

    def _eta(self, done: int, total: int | None) -> float | None:
        """At the speed since the stage was first told of; None before anything is known of it."""
        now = time.monotonic()
        since, first = self._counting = self._counting or (now, done)
        if total is None or done <= first or now <= since:
            return None
        return round((now - since) / (done - first) * max(total - done, 0), 1)

    async def log(self, line: str, target: str = "") -> None:
        self._check()
        for each in line.splitlines() or [""]:
            text = clean(each)
            event = {"type": "log", "target": clean(target)[:_LONGEST_NAME], "line": cut(text, _LONGEST_LINE)}
            size = len(dumps(event))
            if self._cut or self._writer.spent or size > self._left:
                await self._cut_off()
            else:
                self._left -= size
                await self._writer.tell(event)

    async def _cut_off(self) -> None:
        self._cut += 1
        if self._cut == 1:
            why = f"the log is cut here: more than {self.resources.settings.job_log_bytes:,} bytes (job_log_bytes)"
            await self._writer.tell({"type": "log", "target": "", "line": why, "cut": True})
        await asyncio.sleep(0)

    async def target(self, name: str, state: str, **more: Any) -> None:
        self._check()
        name, most = clean(name)[:_LONGEST_NAME], self.resources.settings.job_targets
        self._targets.add(name)
        if len(self._targets) > most:
            raise JobFailed("too_large", f"the job has more than {most:,} targets (job_targets)")
        event = {**self._room_for(shortened(more)), "type": "target", "name": name}
        await self._writer.tell({**event, "state": clean(state)[:_LONGEST_NAME]}, ("target", name))

    def _room_for(self, more: dict[str, Any]) -> dict[str, Any]:
        """What is said besides has as many bytes of its own as the log; of targets beyond that only states are kept."""
        size = len(dumps(more)) if more else 0
        if size > self._left_besides:
            return {"cut": True}
        self._left_besides -= size
        return more

    async def run(self, task: Task) -> Result:
        self._check()
        task = replace(task, session=self._lane, background=True)
        async with self._in_flight:
            while True:
                self._check()
                try:
                    work = self._queue.submit(task)
                    break
                except Busy as busy:
                    wait = min((busy.retry_after_ms or 0) / 1000, _LONGEST_WAIT)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            try:
                return await work
            except asyncio.CancelledError:
                self._queue.cancel(self._lane, id=task.id)
                raise

    async def approve(self, question: str, **more: Any) -> str:
        self._check()
        self._asked += 1
        approval = f"approval-{self._asked}"
        answer = self._answers[approval] = asyncio.get_running_loop().create_future()
        event = {"type": "approval", "approval": approval, "question": clean(question)[:_LONGEST_LINE]}
        await self._writer.tell({**shortened(more), **event}, urgent=True)
        seconds = self.resources.settings.job_approval_timeout
        try:
            async with asyncio.timeout(seconds):
                said = await answer
        except TimeoutError:
            raise JobFailed("timeout", f"nobody has answered within {seconds:g} s (job_approval_timeout)") from None
        finally:
            del self._answers[approval]
        if not said["ok"]:
            why = f": {said['text']}" if said["text"] else ""
            raise JobFailed("refused", f"{said['by']} has refused{why}")
        return str(said["by"])

    def answered(self, event: Event) -> None:
        """Somebody has answered in the story."""
        for said in json.loads(event.data)["events"]:
            waiting = self._answers.get(said.get("approval"))
            if waiting and not waiting.done():
                waiting.set_result(said)

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        self._check()
        size = (await asyncio.to_thread(file.stat)).st_size
        try:
            kept = await self.resources.threads.run(self.resources.results.put_file, file, Path(name).suffix.lower())
        except ValueError as error:
            raise WorkError("unsupported_format", f"{name[:100]}: {error}") from None
        return {"name": name, "url": f"{self._base_url}/media/{kept}", "bytes": size}

    def folder(self) -> Path:
        self._check()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder

    def say_what_was_cut(self, event: dict[str, Any]) -> None:
        """In the last event: how many lines of the log are not kept."""
        if self._cut:
            event["lines_cut"] = self._cut

    async def close(self) -> None:
        """Clears away what the job leaves."""
        self.ended = True
        self._queue.forget(self._lane)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def clean(text: str) -> str:
    """Without what is no text: a line of the log must not be able to do more than to be read."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text))


def shortened(more: dict[str, Any]) -> dict[str, Any]:
    """What is said besides, with its texts cleaned and cut until they are short enough. Raises ValueError."""
    more = {name: _each_text(value, _clean_lines) for name, value in more.items()}
    for most in (_LONGEST_LINE, 1000, 100):
        if len(dumps(more)) <= _LONGEST_MORE:
            return more
        more = {name: _each_text(value, partial(cut, most=most)) for name, value in more.items()}
    return more if len(dumps(more)) <= _LONGEST_MORE else {"cut": True}


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... and {len(text) - most:,} characters more"


def _clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.replace("\r\n", "\n").split("\n"))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_each_text(each, change) for each in value]
    if isinstance(value, dict):
        return {str(name): _each_text(each, change) for name, each in value.items()}
    return value
