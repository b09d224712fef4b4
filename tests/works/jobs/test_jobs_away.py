"""Jobs while the event store is unavailable, lost leases, and deleted histories."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support import event_stores
from tests.support.jobs import ALICE, end, groups, opened, running_jobs, start, wait_for_event
from tests.support.running import until
from works.errors import WorkError
from works.events.broker import Broker
from works.events.leases import Leases
from works.events.marks import Marks
from works.events.store import EventStore
from works.jobs.history import END, dumps, group, job_stream, new_id
from works.jobs.leases import LeaseKeeper
from works.jobs.requests import ListRequest


class Part:
    """A broker, marks or leases of a store that can be unavailable."""

    def __init__(self, away: "Away", part: object) -> None:
        self._away, self._part = away, part

    def __getattr__(self, name: str) -> Any:
        return self._away.refuse if self._away.is_away and name != "subscribe" else getattr(self._part, name)


class SlowLeases(Part):
    """Its answers can be delayed."""

    async def hold(self, lease: str, holder: str, seconds: float) -> bool:
        if self._away.is_away:
            await self._away.refuse()
        held = bool(await self._part.hold(lease, holder, seconds))  # type: ignore[attr-defined]
        self._away.held += 1
        await self._away.answers.wait()
        return held


class Away:
    """An EventStore that can be unavailable. Calls are then refused and counted. Answers about leases can
    be delayed.
    """

    def __init__(self, store: EventStore) -> None:
        self.is_away, self.refused, self.held = False, 0, 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.broker = cast(Broker, Part(self, store.broker))
        self.marks = cast(Marks, Part(self, store.marks))
        self.leases = cast(Leases, SlowLeases(self, store.leases))

    async def refuse(self, *_: object, **__: object) -> None:
        self.refused += 1
        raise OSError("the log is away")


async def test_events_during_an_outage_are_written_after_it(tmp_path: Path) -> None:
    async with event_stores.opened("sqlite", tmp_path) as store:
        away = Away(store)
        async with running_jobs(away.broker, away.marks, away.leases, tmp_path, job_lease=600) as jobs:
            id = await start(jobs, "counting", steps=300, pause=0.001)
            away.is_away = True
            await until(lambda: away.refused > 2)
            away.is_away = False
            events = [event for group in await groups(jobs, id) for event in group["events"]]
            logged = [event["line"] for event in events if event["type"] == "log"]
            assert logged == [f"line {number}" for number in range(1, 301)]
            assert events[-1]["type"] == "succeeded"


async def test_a_job_without_event_store_for_longer_than_its_lease_is_stopped_and_interrupted(
    tmp_path: Path,
) -> None:
    async with event_stores.opened("sqlite", tmp_path) as store:
        away = Away(store)
        async with running_jobs(away.broker, away.marks, away.leases, tmp_path, job_lease=0.5) as jobs:
            id = await start(jobs, "waiting", file=str(tmp_path / "file"))
            await wait_for_event(jobs, id, "target")
            away.is_away = True
            await until((tmp_path / "file").exists)
            away.is_away = False
            last = await end(jobs, id)
            assert (last["type"], last["unknown"]) == ("interrupted", ["begun"])


async def test_a_job_that_another_server_has_ended_is_stopped_here_and_reports_no_more(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        id = await start(jobs, "waiting", file=str(tmp_path / "file"))
        await wait_for_event(jobs, id, "target")
        last = (await jobs.read_history(ALICE, id)).end_members(type="interrupted")
        offset = await jobs.broker.append(job_stream(id), group([dumps(last)], ended="interrupted"), id=END)
        await until((tmp_path / "file").exists)
        await until(lambda: not jobs.runner._running)
        assert (await jobs.broker.position(job_stream(id))).offset == offset


async def test_a_lease_released_during_its_renewal_stays_released(tmp_path: Path) -> None:
    async with event_stores.opened("sqlite", tmp_path) as store:
        away, lost = Away(store), list[str]()
        leases = LeaseKeeper(away.leases, 600, lost.append)
        for given_up_before_it_is_asked_for in (True, False):
            assert await leases.take("job")
            away.answers.clear()
            before = away.held
            keeping = asyncio.create_task(leases.keep())
            if not given_up_before_it_is_asked_for:
                await until(lambda before=before: away.held > before)
            await asyncio.create_task(leases.release("job"))
            away.answers.set()
            await asyncio.wait({keeping}, timeout=0.1)
            assert not keeping.done()
            keeping.cancel()
        again = asyncio.create_task(leases.keep())
        before = away.held
        await asyncio.wait({again}, timeout=0.1)
        again.cancel()
        assert (away.held, lost) == (before, [])
        assert await store.leases.hold("job/job", "another", 600)


async def test_the_newest_and_the_running_jobs_of_a_user_are_retained(tmp_path: Path) -> None:
    async with (
        event_stores.opened("sqlite", tmp_path) as store,
        running_jobs(store.broker, store.marks, store.leases, tmp_path, jobs_kept_per_user=2) as jobs,
    ):
        runs = await start(jobs, "waiting")
        ids = []
        for _ in range(4):
            ids.append(await start(jobs, "counting", steps=1))
            await end(jobs, ids[-1])
            await until(lambda: len(jobs.runner._watchers) == 1)  # it has ended and is cleaned up
            await until(lambda: new_id()[:11] > ids[-1][:11])  # ids of the same millisecond have no defined order
        listed = [each["id"] for each in (await jobs.list(ALICE, ListRequest()))["jobs"]]
        assert sorted(listed) == sorted([runs, *ids[-2:]])
        await store.sweep()
        with pytest.raises(WorkError, match="no longer"):
            await jobs.read_history(ALICE, ids[0])
