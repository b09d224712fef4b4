"""The JobContext of a running job. Its events go to the HistoryWriter, its tasks to the queue."""

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

# Maximum number of characters of a line, of a name or state, and of the further members of a target.
_LONGEST_LINE, _LONGEST_NAME, _LONGEST_MORE = 4000, 200, 16_000
# Control characters that a terminal or a page might execute (tabs are allowed), and escape sequences of terminals.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)")
# Maximum number of seconds before a task is submitted again to a full queue.
_LONGEST_WAIT = 5.0


class ExecutionContext:
    """Implements JobContext. When ``ended`` is set, every method raises CancelledError."""

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
        self._session = f"job/{id}"
        self._folder = Path(resources.settings.job_folder).resolve() / id
        self._in_flight = asyncio.Semaphore(resources.settings.job_tasks)
        self._log_bytes_left = self._target_bytes_left = resources.settings.job_log_bytes
        self._lines_cut = 0
        self._targets: set[str] = set()
        self._counting: tuple[float, int] | None = None  # time and count of the first progress of this stage
        self._approvals = 0
        self._answers: dict[str, asyncio.Future[dict[str, Any]]] = {}

    def _check_not_ended(self) -> None:
        if self.ended:
            raise asyncio.CancelledError("the job has ended")

    async def stage(self, name: str) -> None:
        self._check_not_ended()
        self._counting = None
        await self._writer.add({"type": "stage", "name": clean(name)[:_LONGEST_NAME]})

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        self._check_not_ended()
        event = {"type": "progress", "done": done, "failed": failed, "total": total, "eta_s": self._eta(done, total)}
        await self._writer.add(event, "progress")

    def _eta(self, done: int, total: int | None) -> float | None:
        """Estimates the seconds left, from the speed since the first progress of the stage. None while that
        is unknown.
        """
        now = time.monotonic()
        since, first = self._counting = self._counting or (now, done)
        if total is None or done <= first or now <= since:
            return None
        return round((now - since) / (done - first) * max(total - done, 0), 1)

    async def log(self, line: str, target: str = "") -> None:
        self._check_not_ended()
        for part in line.splitlines() or [""]:
            text = clean(part)
            event = {"type": "log", "target": clean(target)[:_LONGEST_NAME], "line": truncate(text, _LONGEST_LINE)}
            size = len(dumps(event))
            if self._lines_cut or self._writer.spent or size > self._log_bytes_left:
                await self._cut_line()
            else:
                self._log_bytes_left -= size
                await self._writer.add(event)

    async def _cut_line(self) -> None:
        self._lines_cut += 1
        if self._lines_cut == 1:
            why = f"the log is cut here: more than {self.resources.settings.job_log_bytes:,} bytes (job_log_bytes)"
            await self._writer.add({"type": "log", "target": "", "line": why, "cut": True})
        await asyncio.sleep(0)

    async def target(self, name: str, state: str, **more: Any) -> None:
        """As in JobContext. Raises JobFailed."""
        self._check_not_ended()
        name, most = clean(name)[:_LONGEST_NAME], self.resources.settings.job_targets
        self._targets.add(name)
        if len(self._targets) > most:
            raise JobFailed("too_large", f"the job has more than {most:,} targets (job_targets)")
        event = {**self._within_budget(shortened(more)), "type": "target", "name": name}
        await self._writer.add({**event, "state": clean(state)[:_LONGEST_NAME]}, ("target", name))

    def _within_budget(self, more: dict[str, Any]) -> dict[str, Any]:
        """Limits the further members of targets to as many bytes as the log. Beyond it, only states are stored."""
        size = len(dumps(more)) if more else 0
        if size > self._target_bytes_left:
            return {"cut": True}
        self._target_bytes_left -= size
        return more

    async def run(self, task: Task) -> Result:
        self._check_not_ended()
        task = replace(task, session=self._session, background=True)
        async with self._in_flight:
            while True:
                self._check_not_ended()
                try:
                    work = self._queue.submit(task)
                    break
                except Busy as busy:
                    wait = min((busy.retry_after_ms or 0) / 1000, _LONGEST_WAIT)
                    await asyncio.sleep(wait * random.uniform(0.5, 1.5))
            try:
                return await work
            except asyncio.CancelledError:
                self._queue.cancel(self._session, id=task.id)
                raise

    async def approve(self, question: str, **more: Any) -> str:
        """As in JobContext. Raises JobFailed."""
        self._check_not_ended()
        self._approvals += 1
        approval = f"approval-{self._approvals}"
        waiting = self._answers[approval] = asyncio.get_running_loop().create_future()
        event = {"type": "approval", "approval": approval, "question": clean(question)[:_LONGEST_LINE]}
        await self._writer.add({**shortened(more), **event}, urgent=True)
        seconds = self.resources.settings.job_approval_timeout
        try:
            async with asyncio.timeout(seconds):
                answer = await waiting
        except TimeoutError:
            raise JobFailed("timeout", f"no user has answered within {seconds:g} s (job_approval_timeout)") from None
        finally:
            del self._answers[approval]
        if not answer["ok"]:
            why = f": {answer['text']}" if answer["text"] else ""
            raise JobFailed("refused", f"{answer['by']} has refused{why}")
        return str(answer["by"])

    def deliver_answers(self, event: Event) -> None:
        """Passes the answers in this event to the waiting ``approve``."""
        for answer in json.loads(event.data)["events"]:
            waiting = self._answers.get(answer.get("approval"))
            if waiting and not waiting.done():
                waiting.set_result(answer)

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        """As in JobContext. Raises OSError or WorkError."""
        self._check_not_ended()
        size = (await asyncio.to_thread(file.stat)).st_size
        try:
            kept = await self.resources.threads.run(self.resources.results.put_file, file, Path(name).suffix.lower())
        except ValueError as error:
            raise WorkError("unsupported_format", f"{name[:100]}: {error}") from None
        return {"name": name, "url": f"{self._base_url}/media/{kept}", "bytes": size}

    def folder(self) -> Path:
        self._check_not_ended()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._folder

    def add_lines_cut(self, event: dict[str, Any]) -> None:
        """Adds to the last event how many lines of the log were not stored."""
        if self._lines_cut:
            event["lines_cut"] = self._lines_cut

    async def close(self) -> None:
        """Removes the job's folder and its tasks."""
        self.ended = True
        self._queue.forget(self._session)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def clean(text: str) -> str:
    """Returns the text without control characters, so that a line of the log is safe to show anywhere."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", _ESCAPES.sub("", text))


def shortened(more: dict[str, Any]) -> dict[str, Any]:
    """Returns the further members with clean texts, cut until all fit. Raises ValueError for values that
    are not JSON.
    """
    more = {name: _each_text(value, _clean_lines) for name, value in more.items()}
    for most in (_LONGEST_LINE, 1000, 100):
        if len(dumps(more)) <= _LONGEST_MORE:
            return more
        more = {name: _each_text(value, partial(truncate, most=most)) for name, value in more.items()}
    return more if len(dumps(more)) <= _LONGEST_MORE else {"cut": True}


def truncate(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... and {len(text) - most:,} characters more"


def _clean_lines(text: str) -> str:
    return "\n".join(clean(line) for line in text.replace("\r\n", "\n").split("\n"))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple):
        return [_each_text(part, change) for part in value]
    if isinstance(value, dict):
        return {str(name): _each_text(part, change) for name, part in value.items()}
    return value
