"""Runs jobs in this process, and ends jobs of processes that have died.

A process holds and renews the lease of each of its jobs. When a job has no lease and its history has not ended, its
process has died. The first process that finds such a job ends it as ``interrupted``.
"""

import asyncio
import shutil
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel

from works.errors import Busy
from works.events.broker import Broker
from works.events.leases import Leases
from works.events.marks import Marks
from works.jobs import Job
from works.jobs.execution import JobExecution
from works.jobs.history import (
    ALL,
    END,
    RUNNING,
    JobHistory,
    dumps,
    group,
    is_id,
    job_of_stream,
    job_stream,
    shortened_start,
    user_reader,
)
from works.jobs.history_cache import HistoryCache
from works.jobs.leases import LeaseKeeper
from works.jobs.resources import JobResources
from works.queue import WorkQueue

log = structlog.get_logger()

# retry_after in milliseconds when a job cannot be started now.
_SOON = 5000
# Share of the shutdown time in which jobs can clean up. The rest is for their last events.
_SHARE = 0.7
_STOPPING = "the server is stopping"


class Runner:
    def __init__(
        self,
        broker: Broker,
        marks: Marks,
        leases: Leases,
        queue: WorkQueue,
        resources: JobResources,
        histories: HistoryCache,
    ) -> None:
        self._marks = marks
        self._broker, self._queue, self._resources, self._histories = broker, queue, resources, histories
        self._leases = LeaseKeeper(leases, resources.settings.job_lease, self._lose)
        self._running: dict[str, JobExecution] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        # Jobs that are being started (with their user) or examined, each with an event that is set at the end.
        self._starting: dict[str, tuple[str, asyncio.Event]] = {}
        self._draining = False

    async def begin(
        self, id: str, user: str, kind: Job, params: BaseModel, started: dict[str, Any], base_url: str
    ) -> bool:
        """Starts the job, unless it was started before. Returns whether it was.

        Raises Busy or OSError; then the call may be repeated.
        """
        while id in self._starting:
            await self._starting[id][1].wait()
        if id in self._running:
            return False
        done = asyncio.Event()
        self._starting[id] = user, done
        try:
            if await self._histories.read_start(id):
                return False
            self._check_capacity(id, user)
            if not await self._leases.take(id) or await self._histories.read_start(id):
                return False
            history = await self._write_start(id, user, started)
            only = None if started["only"] is None else frozenset(started["only"])
            running = JobExecution(kind, params, history, only, base_url, self._resources, self._broker, self._queue)
            self._running[id] = running
            if self._draining:
                running.stop("interrupted", _STOPPING)
            self._watchers.add(watcher := asyncio.create_task(self._watch_to_end(running)))
            watcher.add_done_callback(self._watchers.discard)
            return True
        finally:
            del self._starting[id]
            done.set()
            if id not in self._running:
                await self._leases.release(id)

    def _check_capacity(self, id: str, user: str) -> None:
        """Raises Busy when too many jobs are running or were being started before this one."""
        settings = self._resources.settings
        before = takewhile(lambda each: each != id, self._starting)
        users = [running.user for running in self._running.values()] + [self._starting[each][0] for each in before]
        if self._draining:
            raise Busy("the server is stopping; start the job again in a moment", _SOON)
        if len(users) >= settings.jobs_running:
            raise Busy(f"{settings.jobs_running} jobs are already running on this server (jobs_running)", _SOON)
        if users.count(user) >= settings.jobs_running_per_user:
            most = settings.jobs_running_per_user
            raise Busy(f"{most} of your jobs are already running on this server (jobs_running_per_user)", _SOON)

    async def _write_start(self, id: str, user: str, started: dict[str, Any]) -> JobHistory:
        """Writes the first event. The mark is set before; if the job is never started, ``_find_lost``
        removes the mark.
        """
        stream = job_stream(id)
        for reader in (RUNNING, ALL, user_reader(user)):
            await self._marks.set(stream, reader, 0)
        await self._broker.append(stream, group([dumps(shortened_start(started))]), id="started", unless=(END,))
        history = await self._histories.read_start(id)
        if history is None:
            raise OSError("the job's history cannot be read")
        return history

    async def _watch_to_end(self, running: JobExecution) -> None:
        await asyncio.wait({running.done})
        self._running.pop(running.id, None)
        if not running.done.cancelled() and running.done.exception():
            log.error("job.end_failed", job=running.id, exc_info=running.done.exception())
        elif not running.was_lost:
            with suppress(OSError):  # after a failure, ``_find_lost`` finds the ended job and does this
                await self._expire_history(running.id)
        await self._leases.release(running.id)

    async def _expire_history(self, id: str) -> None:
        """Sets the expiry ``job_ttl`` of the history, because the job has ended."""
        await self._broker.expire(job_stream(id), self._resources.settings.job_ttl)
        await self._marks.remove(job_stream(id), RUNNING)

    def _lose(self, id: str) -> None:
        if running := self._running.get(id):
            running.lose()

    async def run(self) -> None:
        """Renews leases and looks for lost jobs, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._leases.keep())
            tasks.create_task(self._look_for_lost())

    async def _look_for_lost(self) -> None:
        first = True
        while True:
            with suppress(OSError):
                await self._find_lost()
                if first:
                    await self._clear_folders()
                first = False
            await asyncio.sleep(self._leases.seconds / 2)

    async def _find_lost(self) -> None:
        for stream in await self._marks.of_reader(RUNNING):
            id = job_of_stream(stream)
            if id is None or id in self._running or id in self._starting:
                continue
            done = asyncio.Event()
            self._starting[id] = "", done
            try:
                if await self._leases.take(id):
                    await self._end_lost(id)
            except OSError:
                raise
            except Exception:  # a history that cannot be read must not stop the search for others
                log.exception("job.recovery_failed", job=id)
            finally:
                del self._starting[id]
                done.set()
                await self._leases.release(id)

    async def _end_lost(self, id: str) -> None:
        """Ends a job whose process has died, as ``interrupted``. The caller must hold its lease: no other process may
        run it.
        """
        history = await self._histories.read(id)
        if history is None:  # it was never started, or its history has expired
            await self._broker.expire(job_stream(id), 0)
            return await self._marks.remove(job_stream(id), RUNNING)
        if not history.ended:
            why = "the server of this job has died; the state of targets that were running is not known"
            event = history.end_members(type="interrupted", code="interrupted", message=why)
            await self._broker.append(job_stream(id), group([dumps(event)], ended="interrupted"), id=END)
            log.warning("job.interrupted", job=id, kind=history.job, user=history.user)
        await self._expire_history(id)
        await asyncio.to_thread(shutil.rmtree, self._folder / id, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return Path(self._resources.settings.job_folder).resolve()

    async def _clear_folders(self) -> None:
        """Removes the folders of jobs that ran here when the server was killed, and that another server has ended."""
        if not self._folder.is_dir():
            return
        # The order matters: a job is marked before it has a folder.
        folders = list(self._folder.iterdir())
        still = {job_of_stream(stream) for stream in await self._marks.of_reader(RUNNING)}
        for folder in folders:
            if is_id(folder.name) and folder.name not in still:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def drain(self, deadline: float) -> None:
        """Starts no more jobs, stops running ones, and waits ``deadline`` seconds for them."""
        self._draining = True
        for running in self._running.values():
            running.stop("interrupted", _STOPPING, timeout=deadline * _SHARE)
        stop = group([dumps({"type": "cancelling", "by": None, "reason": _STOPPING})], request="stop")
        appends = [self._broker.append(job_stream(id), stop, id="cancel", unless=(END,)) for id in self._running]
        try:
            async with asyncio.timeout(deadline):
                await asyncio.gather(*appends, return_exceptions=True)
                await asyncio.gather(*self._watchers)
        except TimeoutError:
            log.warning("job.drain_timeout", jobs=list(self._running))
