"""Runs jobs in this process, and ends those that were lost with another.

A process holds the lease of each job that it runs and renews it. A job whose lease nobody holds and whose story has
not ended was lost with its process: whoever finds it ends it as ``interrupted``.
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
from works.jobs.history import ALL, END, RUNNING, JobHistory, as_told, dumps, group, id_of, is_id, started_by, stream_of
from works.jobs.history_cache import HistoryCache
from works.jobs.leases import LeaseKeeper
from works.jobs.resources import JobResources
from works.queue import WorkQueue

log = structlog.get_logger()

# Milliseconds after which to ask again whether a job may be started.
_SOON = 5000
# What of a stopping server's time its jobs have to clear away; the rest is for their last events.
_SHARE = 0.7
_STOPPING = "the server is stopping"


class Runner:
    def __init__(
        self,
        events: Broker,
        marks: Marks,
        leases: Leases,
        queue: WorkQueue,
        resources: JobResources,
        stories: HistoryCache,
    ) -> None:
        self._marks = marks
        self._events, self._queue, self._resources, self._stories = events, queue, resources, stories
        self._leases = LeaseKeeper(leases, resources.settings.job_lease, self._lose)
        self._running: dict[str, JobExecution] = {}
        self._following: set[asyncio.Task[None]] = set()
        # Jobs that are being started, by whom, or being looked at; with what ends when that is done.
        self._held: dict[str, tuple[str, asyncio.Event]] = {}
        self._draining = False

    async def begin(
        self, id: str, user: str, kind: Job, params: BaseModel, started: dict[str, Any], base_url: str
    ) -> bool:
        """Runs the job, unless it was begun before. Raises Busy, OSError: then it may be tried again."""
        while id in self._held:
            await self._held[id][1].wait()
        if id in self._running:
            return False
        done = asyncio.Event()
        self._held[id] = user, done
        try:
            if await self._stories.first(id):
                return False
            self._check_room(id, user)
            if not await self._leases.take(id) or await self._stories.first(id):
                return False
            story = await self._write_start(id, user, started)
            only = None if started["only"] is None else frozenset(started["only"])
            running = JobExecution(kind, params, story, only, base_url, self._resources, self._events, self._queue)
            self._running[id] = running
            if self._draining:
                running.stop("interrupted", _STOPPING)
            self._following.add(following := asyncio.create_task(self._see_through(running)))
            following.add_done_callback(self._following.discard)
            return True
        finally:
            del self._held[id]
            done.set()
            if id not in self._running:
                await self._leases.release(id)

    def _check_room(self, id: str, user: str) -> None:
        """Beside the jobs that run, and those that are being started since before this one."""
        settings = self._resources.settings
        before = takewhile(lambda each: each != id, self._held)
        users = [running.user for running in self._running.values()] + [self._held[each][0] for each in before]
        if self._draining:
            raise Busy("the server is stopping; start the job again in a moment", _SOON)
        if len(users) >= settings.jobs_running:
            raise Busy(f"{settings.jobs_running} jobs run on this server already (jobs_running)", _SOON)
        if users.count(user) >= settings.jobs_running_per_user:
            most = settings.jobs_running_per_user
            raise Busy(f"{most} jobs of yours run on this server already (jobs_running_per_user)", _SOON)

    async def _write_start(self, id: str, user: str, started: dict[str, Any]) -> JobHistory:
        """Marked as running before it is begun: what is never begun, a turn of ``_find_lost`` clears away."""
        stream = stream_of(id)
        for reader in (RUNNING, ALL, started_by(user)):
            await self._marks.set(stream, reader, 0)
        await self._events.append(stream, group([dumps(as_told(started))]), id="started", unless=(END,))
        story = await self._stories.first(id)
        if story is None:
            raise OSError("the job's story cannot be read")
        return story

    async def _see_through(self, running: JobExecution) -> None:
        await asyncio.wait({running.done})
        self._running.pop(running.id, None)
        if not running.done.cancelled() and running.done.exception():
            log.error("failed", job=running.id, exc_info=running.done.exception())
        elif not running.was_lost:
            with suppress(OSError):  # then it is found as one that is lost, and seen to have ended
                await self._put_away(running.id)
        await self._leases.release(running.id)

    async def _put_away(self, id: str) -> None:
        """It has ended: its story is kept for a while."""
        await self._events.expire(stream_of(id), self._resources.settings.job_ttl)
        await self._marks.remove(stream_of(id), RUNNING)

    def _lose(self, id: str) -> None:
        if running := self._running.get(id):
            running.lose()

    async def run(self) -> None:
        """Renews leases and looks for lost jobs, until cancelled."""
        async with asyncio.TaskGroup() as both:
            both.create_task(self._leases.keep())
            both.create_task(self._look())

    async def _look(self) -> None:
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
            id = id_of(stream)
            if id is None or id in self._running or id in self._held:
                continue
            done = asyncio.Event()
            self._held[id] = "", done
            try:
                if await self._leases.take(id):
                    await self._end_lost(id)
            except OSError:
                raise
            except Exception:  # a story that cannot be read must not keep us from the others
                log.exception("failed", job=id)
            finally:
                del self._held[id]
                done.set()
                await self._leases.release(id)

    async def _end_lost(self, id: str) -> None:
        """Nobody runs it: we hold its lease."""
        story = await self._stories.whole(id)
        if story is None:  # it was never begun, or its story has run out
            await self._events.expire(stream_of(id), 0)
            return await self._marks.remove(stream_of(id), RUNNING)
        if not story.ended:
            why = "the server that ran it has stopped without a word; what was running then is not known"
            event = story.last(type="interrupted", code="interrupted", message=why)
            await self._events.append(stream_of(id), group([dumps(event)], ended="interrupted"), id=END)
            log.warning("job interrupted", job=id, kind=story.job, user=story.user)
        await self._put_away(id)
        await asyncio.to_thread(shutil.rmtree, self._folder / id, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return Path(self._resources.settings.job_folder).resolve()

    async def _clear_folders(self) -> None:
        """Of jobs that ran here when the server was killed, and that another has ended since."""
        if not self._folder.is_dir():
            return
        # In this order: a job is marked before it has a folder.
        folders = list(self._folder.iterdir())
        still = {id_of(stream) for stream in await self._marks.of_reader(RUNNING)}
        for folder in folders:
            if is_id(folder.name) and folder.name not in still:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def drain(self, deadline: float) -> None:
        """Starts no more; tells those that run, and gives them that many seconds to end."""
        self._draining = True
        for running in self._running.values():
            running.stop("interrupted", _STOPPING, patience=deadline * _SHARE)
        told = group([dumps({"type": "cancelling", "by": None, "reason": _STOPPING})], told="stop")
        saying = [self._events.append(stream_of(id), told, id="cancel", unless=(END,)) for id in self._running]
        try:
            async with asyncio.timeout(deadline):
                await asyncio.gather(*saying, return_exceptions=True)
                await asyncio.gather(*self._following)
        except TimeoutError:
            log.warning("jobs did not end", jobs=list(self._running))
