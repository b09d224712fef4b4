"""/ws/jobs: permissions, answers, and watchers that miss nothing, however often they disconnect."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import websockets

from tests.support.client import narrow
from tests.support.running import Server, Start, until
from tests.support.watchers import KINDS, Watcher, events_in


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the job kinds of the tests, and with room for all jobs."""
    bounds = {"connections_per_user": 200, "connections_per_address": 500, "jobs_running_per_user": 100}
    running = Server(tmp_path_factory.mktemp("jobs"), job_modules=KINDS, jobs_running=100, **bounds)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


async def test_hello_has_the_kinds_of_jobs_with_their_schemas(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        counting = watcher.hello["jobs"]["counting"]
        assert counting["help"] == "Counts its targets, one after the other."
        assert counting["params"]["properties"]["steps"]["maximum"] == 100_000
        assert "restricted" not in watcher.hello["jobs"]
        assert watcher.hello["admin"] is False
    async with await Watcher.enter(jobs, scope="jobs admin") as watcher:
        assert "restricted" in watcher.hello["jobs"]


async def test_the_socket_needs_the_scope_jobs(jobs: Server) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        await Watcher.enter(jobs, scope="images chat")
    assert caught.value.response.status_code == 403


async def test_a_watcher_from_the_start_gets_all_events_in_order(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        id = await watcher.start("counting", steps=20, pause=0.01)
        begun = await watcher.watch(id, after=0)
        assert (begun["recovered"], begun["offset"], begun["snapshot"]) == (True, 0, None)
        assert (begun["job"], begun["user"]) == ("counting", "alice")
        groups = await watcher.groups(id)
        assert [group["offset"] for group in groups] == list(range(1, len(groups) + 1))
        assert all(group["at"] > 1_700_000_000_000 for group in groups)
        events = events_in(groups)
        assert events[0]["type"] == "started"
        assert [event["line"] for event in events if event["type"] == "log"] == [f"line {n}" for n in range(1, 21)]
        assert (groups[-1]["ended"], events[-1]["type"]) == ("succeeded", "succeeded")


async def test_a_snapshot_and_the_events_after_it_are_complete(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher, await Watcher.enter(jobs) as late:
        shot: dict[str, Any] = {"state": "succeeded"}
        while shot["state"] == "succeeded":  # the request may be too late, but not every time
            id = await watcher.start("counting", steps=50, pause=0.01, fail=["t3"])
            await watcher.watch(id, after=0)
            await watcher.until(id, "progress")
            begun = await late.watch(id)
            shot = begun["snapshot"]
        assert shot["params"] == {"steps": 50, "pause": 0.01, "fail": ["t3"]}
        states = {name: target["state"] for name, target in shot["states"].items()}
        groups = await late.groups(id)
        assert [group["offset"] for group in groups] == list(range(begun["offset"] + 1, groups[-1]["offset"] + 1))
        states |= {event["name"]: event["state"] for event in events_in(groups) if event["type"] == "target"}
        assert states == {f"t{number}": "failed" if number == 3 else "ok" for number in range(50)}
        lines = [line["line"] for line in shot["log"]]
        lines += [event["line"] for event in events_in(groups) if event["type"] == "log"]
        assert lines == [f"line {number}" for number in range(1, 51)]


async def test_an_ended_job_is_sent_as_a_snapshot_and_is_not_watched(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        id = await watcher.start("failing")
        await watcher.watch(id, after=0)
        await watcher.groups(id)
        for _ in range(2):  # it can be watched again, because the first watch has ended with the job
            shot = (await watcher.watch(id))["snapshot"]
            assert (shot["state"], shot["end"]["code"], shot["end"]["result"]) == ("failed", "too_bad", {"so_far": 3})


async def drop_and_resume(jobs: Server, times: int, steps: int) -> None:
    """A watcher that disconnects after every few groups. Returns the events that it has received."""
    async with await Watcher.enter(jobs) as starter:
        id = await starter.start("counting", steps=steps, pause=0.02)
    seen: list[dict[str, object]] = []
    epoch, drops = None, 0
    while not seen or "ended" not in seen[-1]:
        watcher = await Watcher.enter(jobs)
        begun = await watcher.watch(id, after=len(seen), epoch=epoch)
        assert begun["recovered"]
        epoch = begun["epoch"]
        seen += await watcher.groups(id, most=1 if drops < times else 1_000_000)
        drops += 1
        watcher.abort()
    # Reads the events again from every offset. They are always the same.
    for drop in range(drops, times):
        watcher = await Watcher.enter(jobs)
        after = drop % len(seen)
        await watcher.watch(id, after=after, epoch=epoch)
        assert await watcher.groups(id) == seen[after:]
        watcher.abort()
    assert [group["offset"] for group in seen] == list(range(1, len(seen) + 1))
    lines = [event["line"] for event in events_in(seen) if event["type"] == "log"]  # type: ignore[arg-type]
    assert lines == [f"line {number}" for number in range(1, steps + 1)]


@pytest.mark.chaos
async def test_a_watcher_who_drops_and_resumes_a_hundred_times_sees_every_event_once(jobs: Server) -> None:
    await drop_and_resume(jobs, times=100, steps=200)


async def test_after_another_epoch_or_a_dropped_offset_a_snapshot_is_sent(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        id = await watcher.start("failing")
        await watcher.watch(id, after=0)
        await watcher.groups(id)
        for where in ({"after": 1, "epoch": "another"}, {"after": 999}):
            begun = await watcher.watch(id, **where)
            assert begun["recovered"] is False
            assert begun["snapshot"]["state"] == "failed"


async def test_two_starts_with_one_client_id_are_one_job(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as one, await Watcher.enter(jobs) as other:
        for watcher in (one, other):
            await watcher.send("start", job="counting", params={"steps": 1}, client_id="twice")
        answers = [await watcher.wait_for("accepted") for watcher in (one, other)]
        assert answers[0]["id"] == answers[1]["id"]
        assert sorted(answer["repeated"] for answer in answers) == [False, True]


async def test_all_errors_of_parameters_are_reported_by_field(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        wrong = {"steps": -1, "pause": "long", "misspelt": True}
        error = await watcher.refused("start", job="counting", params=wrong, client_id="x")
        assert (error["code"], error["client_id"]) == ("bad_options", "x")
        assert [each["field"] for each in error["errors"]] == ["steps", "pause", "misspelt"]
        error = await watcher.refused("start", job="no such", client_id="y")
        assert (error["code"], error["client_id"]) == ("not_found", "y")
        assert "counting" in error["message"]


async def test_a_job_is_cancelled_answered_and_retried_by_its_user_or_an_admin_only(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as alice, await Watcher.enter(jobs, "bob") as bob:
        asking, waiting = await alice.start("asking"), await alice.start("waiting")
        await alice.watch(asking, after=0)
        await alice.until(asking, "approval")
        members = {"approval": "approval-1", "ok": True}
        tries = [("watch", {}), ("cancel", {}), ("answer", members), ("retry", {"only": "failed", "client_id": "x"})]
        for type, more in tries:
            for id in (asking, "0" * 27):
                assert (await bob.refused(type, id=id, **more))["code"] == "not_found"
        assert (await bob.refused("jobs", filter="all"))["code"] == "forbidden"
        async with await Watcher.enter(jobs, "root", scope="jobs admin") as admin:
            await admin.send("answer", id=asking, **members)
            await admin.wait_for("answered", id=asking)
            await admin.watch(waiting, after=0)
            await admin.send("cancel", id=waiting)
            groups = await admin.groups(waiting)
            await admin.send("jobs", filter="all")
            assert {asking, waiting} <= {each["id"] for each in (await admin.wait_for("jobs"))["jobs"]}
        assert [each["by"] for each in events_in(groups) if each["type"] == "cancelling"] == ["root"]
        assert groups[-1]["ended"] == "cancelled"
        assert events_in(await alice.groups(asking))[-1]["result"] == {"by": "root"}
        await alice.send("retry", id=waiting, only="unfinished", client_id="again")
        again = (await alice.wait_for("accepted", client_id="again"))["id"]
        assert (await alice.watch(again))["snapshot"]["only"] == ["begun", "never"]
        await alice.send("cancel", id=again)
        await alice.groups(again)

    def audit() -> dict[str, str]:
        said = [json.loads(line) for line in jobs.log if '"event": "job.' in line and waiting in line]
        return {each["event"]: each.get("by", each["user"]) for each in said}

    await until(lambda: audit() == {"job.started": "alice", "job.cancelled": "root", "job.ended": "alice"})


async def test_after_unwatch_no_more_events_arrive(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        id = await watcher.start("waiting")
        await watcher.watch(id)
        await watcher.send("unwatch", id=id)
        await watcher.wait_for("unwatched", id=id)
        await watcher.send("cancel", id=id)
        assert (await watcher.receive())["type"] == "cancelling"
        other = await watcher.start("counting", steps=1)
        await watcher.watch(other, after=0)
        while (message := await watcher.receive())["type"] == "events":
            assert message["id"] == other
            if "ended" in message:
                break


async def test_watches_that_end_before_their_start_release_their_places(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        id = await watcher.start("counting", steps=1)
        for _ in range(300):
            await watcher.send("watch", id=id)
            await watcher.send("unwatch", id=id)
        await watcher.send("jobs")
        answer = await watcher.wait_for("jobs", "error")
        assert answer["type"] == "jobs", answer


async def test_watches_and_watchers_are_limited(start_here: Start) -> None:
    server = start_here(job_modules=KINDS, job_watches=1, job_watchers=2)
    async with (
        await Watcher.enter(server) as one,
        await Watcher.enter(server) as two,
        await Watcher.enter(server) as three,
    ):
        id, other = await one.start("waiting"), await one.start("waiting")
        for watcher in (one, two):
            await watcher.watch(id)
        assert "job_watchers" in (await three.refused("watch", id=id))["message"]
        assert "job_watches" in (await one.refused("watch", id=other))["message"]
        await one.send("unwatch", id=id)
        await one.wait_for("unwatched")
        await three.watch(id)
        await one.watch(other)


@pytest.mark.chaos
async def test_a_watcher_who_does_not_read_is_closed_and_the_job_continues(start: Start) -> None:
    server = start(job_modules=KINDS, outbox=1_000_000, job_log_bytes=32 << 20, ping_interval=600)
    async with await Watcher.enter(server) as watcher:
        loud = await watcher.start("loud", lines=5000, text="x" * 3000)
        async with await Watcher.enter(server, sock=narrow(server), max_queue=1, ping_interval=None) as slow:
            await slow.watch(loud, after=0)
            headers = {"Authorization": f"Bearer {server.token('alice', 'jobs')}"}
            job = f"{server.url}/jobs/{loud}"
            await until(lambda: httpx.get(job, headers=headers).json()["job"]["state"] == "succeeded")
            # Before the client reads again: a late reader of the history is closed by stall_timeout, not by its outbox.
            await until(lambda: server.metric("sluice_refusals_total", reason="slow_reader") == 1)
            assert await slow.closed() in (4508, 1006)
        await watcher.watch(loud, after=0)
        groups = await watcher.groups(loud)
        assert [group["offset"] for group in groups] == list(range(1, len(groups) + 1))
        assert groups[-1]["ended"] == "succeeded"


async def test_a_hundred_requests_at_once_are_each_answered(jobs: Server) -> None:
    async with await Watcher.enter(jobs) as watcher:
        await asyncio.gather(*(watcher.send("jobs", limit=1) for _ in range(90)))
        for _ in range(90):
            assert (await watcher.receive())["type"] == "jobs"


def test_a_browser_that_opens_the_address_gets_a_description(jobs: Server) -> None:
    answer = httpx.get(f"{jobs.url}/ws/jobs")
    assert "docs/jobs.md" in answer.text
