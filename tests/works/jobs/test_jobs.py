"""The guarantees for jobs and for their users, with every EventStore."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.event_stores import every_kind
from tests.support.jobs import ADMIN, ALICE, BOB, all_events, end, groups, opened, start, wait_for_event
from tests.support.running import until
from works.errors import Busy, WorkError
from works.events.broker import Fenced
from works.jobs import BadParams, job, offered
from works.jobs.history import END, job_stream
from works.jobs.requests import AnswerRequest, ListRequest, RetryRequest, StartRequest


@every_kind
async def test_a_job_reports_its_events_and_ends_once(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "counting", steps=3, fail=["t1"])
        events = await all_events(jobs, id)
        assert events[0]["type"] == "started"
        assert events[0]["params"] == {"steps": 3, "fail": ["t1"]}
        assert [event["line"] for event in events if event["type"] == "log"] == ["line 1", "line 2", "line 3"]
        states = {event["name"]: event["state"] for event in events if event["type"] == "target"}
        assert states == {"t0": "ok", "t1": "failed", "t2": "ok"}
        last = await end(jobs, id)
        assert last["type"] == "succeeded"
        assert last["result"] == {"counted": 3}
        assert last["progress"] == {"done": 3, "failed": 1, "total": 3, "eta_s": 0.0}
        assert last["targets"] == {"ok": 2, "failed": 1}
        offsets = [group["offset"] for group in await groups(jobs, id)]
        assert offsets == list(range(1, len(offsets) + 1))


@every_kind
async def test_no_event_follows_the_last_one(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "counting", steps=1)
        await end(jobs, id)
        with pytest.raises(Fenced):
            await jobs.broker.append(job_stream(id), "{}", unless=(END,))
        assert await jobs.cancel(ALICE, id) == "succeeded"
        assert (await end(jobs, id))["type"] == "succeeded"


@every_kind
async def test_the_same_client_id_of_a_user_is_one_job(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        request = StartRequest(job="counting", params={"steps": 1}, client_id="x")
        at_once = await asyncio.gather(*(jobs.start(ALICE, request) for _ in range(5)))
        assert len({id for id, _ in at_once}) == 1
        assert sorted(new for _, new in at_once) == [False, False, False, False, True]
        assert (await jobs.start(BOB, request))[1]
    async with opened(kind, tmp_path) as jobs:
        assert await jobs.start(ALICE, request) == (at_once[0][0], False)


@every_kind
async def test_a_failure_is_reported_without_its_internal_details(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        failing = await end(jobs, await start(jobs, "failing"))
        assert (failing["type"], failing["code"], failing["result"]) == ("failed", "too_bad", {"so_far": 3})
        broken = await end(jobs, await start(jobs, "broken"))
        assert (broken["type"], broken["code"]) == ("failed", "internal")
        assert "secret" not in json.dumps(broken)


@every_kind
async def test_a_cancelled_job_cleans_up_and_reports_unknown_outcomes(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "waiting", file=str(tmp_path / "file"))
        await wait_for_event(jobs, id, "target")
        assert await jobs.cancel(ALICE, id) == "cancelling"
        last = await end(jobs, id)
        assert (last["type"], last["code"]) == ("cancelled", "cancelled")
        assert (tmp_path / "file").read_text() == "cleared away"
        assert last["unknown"] == ["begun"]
        event = await wait_for_event(jobs, id, "cancelling")
        assert event["by"] == "alice"
        await until(lambda: not list((tmp_path / "jobs").glob("*")))


@every_kind
async def test_a_job_that_ignores_its_cancel_is_ended(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path, job_cancel_timeout=0.1) as jobs:
        id = await start(jobs, "waiting", deaf=True)
        await wait_for_event(jobs, id, "target")
        await jobs.cancel(ALICE, id)
        last = await end(jobs, id)
        assert (last["type"], last["code"]) == ("cancelled", "timeout")
        assert "did not stop within 0.1 s" in last["message"]
        assert last["unknown"] == ["begun"]


@every_kind
async def test_an_approval_is_waited_for_and_the_first_answer_counts(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "asking")
        event = await wait_for_event(jobs, id, "approval")
        assert (event["question"], event["where"]) == ("Shall I?", "everywhere")
        assert (await jobs.read_history(ALICE, id)).approval == {k: v for k, v in event.items() if k != "type"}
        with pytest.raises(WorkError, match="is not waiting for"):
            await jobs.answer(ALICE, id, AnswerRequest(approval="another", ok=True))
        await jobs.answer(ADMIN, id, AnswerRequest(approval=event["approval"], ok=True))
        assert (await end(jobs, id))["result"] == {"by": "root"}
        with pytest.raises(WorkError, match="is not waiting for"):
            await jobs.answer(ALICE, id, AnswerRequest(approval=event["approval"], ok=False))


@every_kind
async def test_of_two_concurrent_answers_one_counts_and_the_other_is_refused(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "asking")
        await wait_for_event(jobs, id, "approval")
        both = (jobs.answer(who, id, AnswerRequest(approval="approval-1", ok=True)) for who in (ALICE, ADMIN))
        done = await asyncio.gather(*both, return_exceptions=True)
        assert [type(each) for each in done].count(WorkError) == 1
        by = "alice" if done[0] is None else "root"
        assert (await end(jobs, id))["result"] == {"by": by}


@every_kind
async def test_an_approval_refused_ends_the_job(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "asking")
        event = await wait_for_event(jobs, id, "approval")
        await jobs.answer(ALICE, id, AnswerRequest(approval=event["approval"], ok=False, text="not today"))
        last = await end(jobs, id)
        assert (last["type"], last["code"], last["message"]) == ("failed", "refused", "alice has refused: not today")


async def test_a_missing_approval_ends_the_job(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, job_approval_timeout=0.05) as jobs:
        last = await end(jobs, await start(jobs, "asking"))
        assert (last["type"], last["code"]) == ("failed", "timeout")


@every_kind
async def test_a_retry_does_only_the_targets_of_that_state(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "counting", steps=4, fail=["t1", "t3"])
        await end(jobs, id)
        again, new = await jobs.retry(ALICE, id, RetryRequest(only="failed", client_id="again"))
        assert new
        assert (await end(jobs, again))["targets"] == {"failed": 2}
        first = (await all_events(jobs, again))[0]
        assert (first["retry_of"], first["only"]) == (id, ["t1", "t3"])
        assert await jobs.retry(ALICE, id, RetryRequest(only="failed", client_id="again")) == (again, False)
        with pytest.raises(WorkError, match="no targets in the state unreachable"):
            await jobs.retry(ALICE, id, RetryRequest(only="unreachable", client_id="other"))


async def test_a_job_that_runs_is_not_retried(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        id = await start(jobs, "waiting")
        with pytest.raises(WorkError, match="has not ended"):
            await jobs.retry(ALICE, id, RetryRequest(only="failed", client_id="x"))


@every_kind
async def test_jobs_are_listed_newest_first_to_their_user_and_all_to_an_admin(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        ids = [await start(jobs, "counting", client_id=f"{number}", steps=1) for number in range(3)]
        ids.append(await start(jobs, "failing"))
        for id in ids:
            await end(jobs, id)
        bobs = await start(jobs, "waiting", who=BOB)

        async def listed(who: object, **members: object) -> list[str]:
            return [each["id"] for each in (await jobs.list(who, ListRequest(**members)))["jobs"]]  # type: ignore[arg-type]

        newest = sorted(ids, reverse=True)
        assert await listed(ALICE) == newest
        assert await listed(ALICE, limit=2) == newest[:2]
        assert await listed(ALICE, before=newest[1]) == newest[2:]
        assert await listed(ALICE, state="failed") == [ids[3]]
        assert await listed(ALICE, job="failing") == [ids[3]]
        assert set(await listed(ADMIN, filter="all")) == {*ids, bobs}
        assert await listed(ADMIN, filter="all", state="running") == [bobs]
        with pytest.raises(WorkError, match="admin"):
            await jobs.list(ALICE, ListRequest(filter="all"))


@every_kind
async def test_a_job_of_another_user_is_not_found(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "asking")
        await wait_for_event(jobs, id, "approval")
        asks = (
            jobs.read_history(BOB, id),
            jobs.cancel(BOB, id),
            jobs.retry(BOB, id, RetryRequest(only="failed", client_id="x")),
            jobs.answer(BOB, id, AnswerRequest(approval="approval-1", ok=True)),
            jobs.read_history(ALICE, "0" * 27),
            jobs.read_history(ALICE, "../../etc"),
        )
        for request in asks:
            with pytest.raises(WorkError) as caught:
                await request
            assert caught.value.code == "not_found"
        assert (await jobs.read_history(ADMIN, id)).state == "running"


async def test_all_errors_of_the_parameters_are_reported_by_field(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        with pytest.raises(BadParams) as caught:
            await start(jobs, "counting", steps=-1, pause="long", misspelt=1)
        assert [error["field"] for error in caught.value.errors] == ["steps", "pause", "misspelt"]
        assert caught.value.as_dict()["errors"] == caught.value.errors
        assert (await jobs.list(ALICE, ListRequest()))["jobs"] == []


async def test_a_kind_may_ask_for_the_scope_admin(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        assert "restricted" not in offered(ALICE.scopes)
        assert "restricted" in offered(ADMIN.scopes)
        with pytest.raises(WorkError) as caught:
            await start(jobs, "restricted")
        assert caught.value.code == "forbidden"
        assert (await end(jobs, await start(jobs, "restricted", who=ADMIN)))["type"] == "succeeded"


async def test_running_jobs_are_limited_in_total_and_per_user(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, jobs_running=3, jobs_running_per_user=2) as jobs:
        first = await start(jobs, "waiting", client_id="1")
        await start(jobs, "waiting", client_id="2")
        with pytest.raises(Busy, match="jobs_running_per_user"):
            await start(jobs, "waiting", client_id="3")
        assert await start(jobs, "waiting", client_id="1") == first
        await start(jobs, "waiting", who=BOB)
        with pytest.raises(Busy, match=r"jobs_running\)"):
            await start(jobs, "waiting", who=ADMIN)
        await jobs.cancel(ALICE, first)
        await end(jobs, first)
        async with asyncio.timeout(60):
            while True:  # its last event is written a moment before it frees its place
                try:
                    third = await start(jobs, "waiting", client_id="3")
                    break
                except Busy:
                    await asyncio.sleep(0.01)
        assert third != first


async def test_a_kind_without_a_model_or_with_a_used_name_is_refused() -> None:
    with pytest.raises(TypeError, match="pydantic"):

        @job
        async def plain(context: object, params: dict[str, int]) -> None: ...
