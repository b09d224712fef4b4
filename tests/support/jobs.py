"""Helpers for the tests of jobs: a JobService on a folder, its resources, and functions that read
the events of a job.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support import event_stores, uploads
from works.events.broker import Broker
from works.events.leases import Leases
from works.events.marks import Marks
from works.imaging.settings import ImageLimits
from works.jobs import load
from works.jobs.batch.settings import BatchSettings
from works.jobs.film.settings import FilmSettings
from works.jobs.history import job_stream
from works.jobs.requests import StartRequest
from works.jobs.resources import JobResources
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.service import JobService, Requester
from works.jobs.settings import HelperSettings, JobSettings
from works.settings import SettingsGroup
from works.storage.address import StoreThreads
from works.storage.results import ResultStore
from works.uploads import Uploads

G = TypeVar("G", bound=SettingsGroup)

KINDS = "tests.support.kinds_of_jobs"
ALICE = Requester("alice", frozenset({"jobs"}), "http://here")
BOB = Requester("bob", frozenset({"jobs"}), "http://here")
ADMIN = Requester("root", frozenset({"jobs", "admin"}), "http://here")


def make_resources(results: ResultStore, uploads: Uploads, threads: StoreThreads, **settings: Any) -> JobResources:
    """Returns resources with these settings, given by flat names. Each setting is put into the group that has it."""

    def group(kind: type[G]) -> G:
        return kind(**{name: settings.pop(name) for name in kind.model_fields if name in settings})

    resources = JobResources(
        settings=group(JobSettings),
        rollout=group(RolloutSettings),
        batch=group(BatchSettings),
        film=group(FilmSettings),
        helpers=group(HelperSettings),
        images=group(ImageLimits),
        results=results,
        uploads=uploads,
        threads=threads,
    )
    assert settings == {}
    return resources


@asynccontextmanager
async def running_jobs(
    broker: Broker, marks: Marks, leases: Leases, folder: Path, **settings: Any
) -> AsyncIterator[JobService]:
    """Runs jobs on an existing event store, and drains them at the end."""
    load([KINDS])
    async with uploads.opened(folder) as kept:
        threads = StoreThreads(2)
        # The lease outlasts every pause of this process, unless the test is about leases.
        chosen = {"job_folder": str(folder / "jobs"), "job_lease": 600} | settings
        resources = make_resources(kept.queue.media, kept, threads, **chosen)  # type: ignore[attr-defined]
        jobs = JobService(broker, marks, leases, kept.queue, resources, str.encode)
        running = asyncio.create_task(jobs.runner.run())
        try:
            yield jobs
        finally:
            await jobs.runner.drain(60)
            running.cancel()
            threads.close()


@asynccontextmanager
async def opened(kind: str, folder: Path, keep: int = 10_000, **settings: Any) -> AsyncIterator[JobService]:
    async with (
        event_stores.opened(kind, folder, keep) as store,
        running_jobs(store.broker, store.marks, store.leases, folder, **settings) as jobs,
    ):
        yield jobs


async def start(jobs: JobService, job: str, who: Requester = ALICE, client_id: str = "", **params: Any) -> str:
    request = StartRequest(job=job, params=params, client_id=client_id or secrets.token_hex(8))
    return (await jobs.start(who, request))[0]


async def groups(jobs: JobService, id: str, after: int = 0) -> list[dict[str, Any]]:
    """Returns the groups of events after this offset up to the last group, each with its offset."""
    found: list[dict[str, Any]] = []
    async with (
        asyncio.timeout(60),
        aclosing(aiter(jobs.broker.subscribe(job_stream(id), after))) as batches,  # type: ignore[type-var]
    ):
        async for batch in batches:
            found += [{"offset": event.offset, **json.loads(event.data)} for event in batch]
            if "ended" in found[-1]:
                return found
    raise AssertionError("a subscription ended")


async def all_events(jobs: JobService, id: str) -> list[dict[str, Any]]:
    """Returns all events of a job in order, up to its end."""
    return [event for group in await groups(jobs, id) for event in group["events"]]


async def end(jobs: JobService, id: str) -> dict[str, Any]:
    """Returns the last event of a job. It must be the only event that ends the job."""
    events = await all_events(jobs, id)
    last = [each for each in events if each["type"] in ("succeeded", "failed", "cancelled", "interrupted")]
    assert last == events[-1:]
    return last[0]


async def wait_for_event(jobs: JobService, id: str, type: str) -> dict[str, Any]:
    """Waits for the first event of this type and returns it."""
    async with (
        asyncio.timeout(60),
        aclosing(aiter(jobs.broker.subscribe(job_stream(id), 0))) as batches,  # type: ignore[type-var]
    ):
        async for batch in batches:
            for event in batch:
                for each in json.loads(event.data)["events"]:
                    if each["type"] == type:
                        return dict(each)
    raise AssertionError("a subscription ended")
