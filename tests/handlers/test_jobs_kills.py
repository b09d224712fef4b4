"""A job outlives its pages. After a kill of its server it is ended as interrupted, exactly once."""

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.support.redis import Redis, url_in
from tests.support.running import Server, Start, until
from tests.support.watchers import KINDS, Watcher, events_in

# Seconds after which a lost job is found. A server that is frozen for as long has lost its jobs.
LEASE = 8.0
# More steps than are counted before the kill.
STEPS = 5000


@contextmanager
def serving(folder: Path, **settings: object) -> Iterator[Server]:
    server = Server(folder, job_modules=KINDS, **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.stop()


def events_of(folder: Path, kind: str) -> str:
    return f"sqlite:{folder}/events.db" if kind == "sqlite" else url_in(folder)


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["sqlite", pytest.param("redis", marks=pytest.mark.slow)])
async def test_after_a_kill_the_job_is_interrupted_and_a_watcher_continues_without_gap_or_repeat(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    if kind == "redis":
        request.getfixturevalue("redis")
    settings = {"events": events_of(tmp_path, kind), "job_lease": LEASE}
    with serving(tmp_path, **settings) as server:
        watcher = await Watcher.enter(server)
        id = await watcher.start("counting", steps=STEPS, pause=0.01)
        begun = await watcher.watch(id, after=0)
        seen: list[dict[str, Any]] = []
        while not any(event["type"] == "progress" for event in events_in(seen)):
            seen += await watcher.groups(id, most=1)
        server.stop(signal.SIGKILL)
        await watcher.closed()
    with serving(tmp_path, **settings) as server:
        async with await Watcher.enter(server) as watcher:
            again = await watcher.watch(id, after=seen[-1]["offset"], epoch=begun["epoch"])
            assert again["recovered"]
            seen += await watcher.groups(id)
            assert [group["offset"] for group in seen] == list(range(1, len(seen) + 1))
            last = events_in(seen)[-1]
            assert (seen[-1]["ended"], last["type"], last["code"]) == ("interrupted", "interrupted", "interrupted")
            lines = [event["line"] for event in events_in(seen) if event["type"] == "log"]
            assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
            await watcher.send("retry", id=id, only="not_started", client_id="again")
            retried = (await watcher.wait_for("accepted"))["id"]
            only = (await watcher.watch(retried))["snapshot"]["only"]
            assert only == [f"t{number}" for number in range(STEPS - len(only), STEPS)]
            assert 0 <= STEPS - len(only) - len(lines) <= 1


@pytest.mark.chaos
async def test_another_server_finds_a_job_whose_server_was_killed(redis: Redis, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    settings = {"events": url_in(tmp_path), "job_lease": LEASE}
    with serving(folders[0], **settings) as one, serving(folders[1], **settings) as other:
        async with await Watcher.enter(one) as starter, await Watcher.enter(other) as watcher:
            id = await starter.start("waiting")
            await watcher.watch(id, after=0)
            seen = [await watcher.until(id, "target")]
            one.stop(signal.SIGKILL)
            seen += await watcher.groups(id)
            assert seen[-1]["ended"] == "interrupted"
            assert events_in(seen)[-1]["unknown"] == ["begun"]


@pytest.mark.slow
@pytest.mark.parametrize("job", ["counting", "waiting"], ids=["which tells", "which is quiet"])
async def test_a_server_that_was_frozen_longer_than_its_lease_reports_no_more_of_its_job(
    redis: Redis, tmp_path: Path, job: str
) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    settings = {"events": url_in(tmp_path), "job_lease": LEASE}
    with serving(folders[0], **settings) as one, serving(folders[1], **settings) as other:
        async with await Watcher.enter(one) as starter, await Watcher.enter(other) as watcher:
            id = await starter.start(job, **{"steps": STEPS, "pause": 0.01} if job == "counting" else {})
            await watcher.watch(id, after=0)
            await watcher.until(id, "target")
            one.process.send_signal(signal.SIGSTOP)
            seen = await watcher.groups(id)
            assert seen[-1]["ended"] == "interrupted"
            one.process.send_signal(signal.SIGCONT)
            await until(lambda: any('"job.lost"' in line for line in one.log))
            begun = await watcher.watch(id)
            assert begun["offset"] == seen[-1]["offset"]
            # The former server of the job has free capacity again, and accepts another job.
            await starter.watch(await starter.start("counting", steps=1))


@pytest.mark.chaos
async def test_a_job_of_another_server_is_cancelled_and_answered_from_this_one(redis: Redis, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    settings = {"events": url_in(tmp_path), "job_lease": 60}  # longer than the freeze, after which its jobs were lost
    with serving(folders[0], **settings) as one, serving(folders[1], **settings) as other:
        async with await Watcher.enter(one) as starter, await Watcher.enter(other) as watcher:
            asking = await starter.start("asking", client_id="same")
            assert await watcher.start("asking", client_id="same") == asking
            await watcher.watch(asking, after=0)
            await watcher.until(asking, "approval")
            await watcher.send("answer", id=asking, approval="approval-1", ok=True)
            assert (await watcher.groups(asking))[-1]["ended"] == "succeeded"
            waiting = await starter.start("waiting")
            await watcher.watch(waiting, after=0)
            await watcher.until(waiting, "target")
            await watcher.send("cancel", id=waiting)
            assert (await watcher.groups(waiting))[-1]["ended"] == "cancelled"


async def test_on_sigterm_jobs_are_notified_and_end_interrupted(start: Start, tmp_path: Path) -> None:
    server = start(job_modules=KINDS)
    async with await Watcher.enter(server) as watcher:
        file = tmp_path / "file"
        id = await watcher.start("waiting", file=str(file))
        await watcher.watch(id, after=0)
        await watcher.until(id, "target")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        events = events_in(await watcher.groups(id))
        assert await watcher.closed() == 1012
    await asyncio.to_thread(stopping.join)
    cancelling = [event for event in events if event["type"] == "cancelling"]
    assert [(event["by"], event["reason"]) for event in cancelling] == [(None, "the server is stopping")]
    assert (events[-1]["type"], events[-1]["unknown"]) == ("interrupted", ["begun"])
    assert file.read_text() == "cleared away"


@pytest.mark.chaos
async def test_a_job_that_ignores_its_cancel_does_not_prevent_a_shutdown(start: Start) -> None:
    for seconds in (2, 10, 30):  # a third of it is for the last event, and a busy machine may need that time
        if await _ends_as_stopped(start, drain_timeout=seconds):
            return
    raise AssertionError("its end is never reported")


async def _ends_as_stopped(start: Start, **settings: object) -> bool:
    server = start(job_modules=KINDS, **settings)
    is_stopped = False
    async with await Watcher.enter(server) as watcher:
        id = await watcher.start("waiting", deaf=True)
        await watcher.watch(id, after=0)
        await watcher.until(id, "target")
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        with suppress(websockets.ConnectionClosed):
            groups = await watcher.groups(id)
            assert (groups[-1]["ended"], events_in(groups)[-1]["code"]) == ("interrupted", "timeout")
            is_stopped = True
    await asyncio.to_thread(stopping.join)
    assert server.process.returncode == 0
    return is_stopped


@pytest.mark.chaos
async def test_temporary_folders_of_a_killed_server_are_deleted(start: Start, tmp_path: Path) -> None:
    server = start(job_modules=KINDS, job_lease=LEASE)
    async with await Watcher.enter(server) as watcher:
        id = await watcher.start("waiting")
        folder = tmp_path / "var" / "jobs" / id
        await until(lambda: (folder / "scratch").exists())
        server.stop(signal.SIGKILL)
    ended_elsewhere, strange = folder.parent / ("0" * 27), folder.parent / "strange"
    for left in (ended_elsewhere, strange):
        left.mkdir()
    start(job_modules=KINDS, job_lease=LEASE)
    await until(lambda: not os.path.exists(folder) and not os.path.exists(ended_elsewhere))
    assert strange.exists()
