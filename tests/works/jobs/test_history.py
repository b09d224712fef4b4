"""The events of a job are cleaned, cut, written in groups, and limited in size and number."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support import event_stores, kinds_of_jobs
from tests.support.event_stores import every_kind
from tests.support.jobs import ALICE, all_events, end, groups, opened, running_jobs, start, wait_for_event
from works.events.broker import Event
from works.jobs.history import JobHistory, dumps, group
from works.jobs.requests import AnswerRequest, RetryRequest


def lines(events: list[dict[str, Any]]) -> list[str]:
    return [event["line"] for event in events if event["type"] == "log"]


@every_kind
async def test_lines_in_quick_sequence_are_written_together_and_none_is_lost(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as jobs:
        id = await start(jobs, "loud", lines=5000)
        stream = await groups(jobs, id)
        logged = lines([event for group in stream for event in group["events"]])
        assert [line.split()[0] for line in logged] == [str(number) for number in range(5000)]
        assert len(stream) < 500


async def test_a_log_that_grows_too_long_is_cut_and_says_so(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, job_log_bytes=5000) as jobs:
        id = await start(jobs, "loud", lines=1000)
        events = await all_events(jobs, id)
        logged = lines(events)
        assert len("".join(logged)) < 6000
        assert "job_log_bytes" in logged[-1]
        assert [event.get("cut") for event in events if event["type"] == "log"][-2:] == [None, True]
        last = await end(jobs, id)
        assert last["type"] == "succeeded"
        assert last["lines_cut"] + len(logged) - 1 == 1000


async def test_the_history_of_a_long_job_is_complete_and_limited(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, keep=60, job_events=60) as jobs:
        id = await start(jobs, "counting", steps=300, pause=0.01)
        stream = await groups(jobs, id)
        assert stream[0]["events"][0]["type"] == "started"
        assert len(stream) <= 60
        assert (await end(jobs, id))["targets"] == {"ok": 300}
        assert len((await jobs.read_history(ALICE, id)).targets) == 300


async def test_a_history_with_long_lines_is_limited_and_counts_dropped_lines(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, job_events=60, job_log_bytes=64 << 20) as jobs:
        id = await start(jobs, "loud", lines=9000, text="x" * 3000)
        stream = await groups(jobs, id)
        assert len(stream) <= 60
        logged = lines([event for group in stream for event in group["events"]])
        assert stream[-1]["events"][0]["lines_cut"] + len(logged) - 1 == 9000


async def test_a_history_full_of_target_states_keeps_room_for_its_end(tmp_path: Path) -> None:
    targets = [{"name": f"{number}", "state": "ok", "output": "x" * 3900} for number in range(14)]
    async with opened("sqlite", tmp_path, job_events=55) as jobs:
        id = await start(jobs, "telling", targets=targets, times=20, pause=0.11)
        assert len(await groups(jobs, id)) <= 10
        assert (await end(jobs, id))["targets"] == {"ok": 14 * 20}


async def test_a_question_is_asked_even_when_the_history_is_full(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, job_events=60) as jobs:
        id = await start(jobs, "telling_and_asking")
        await wait_for_event(jobs, id, "approval")
        assert (await jobs.read_history(ALICE, id)).offset <= 60
        await jobs.answer(ALICE, id, AnswerRequest(approval="approval-1", ok=True))
        assert (await end(jobs, id))["type"] == "succeeded"


async def test_a_snapshot_of_too_much_is_brief_and_has_every_state(tmp_path: Path) -> None:
    targets = [{"name": f"{number}", "state": "ok", "output": "x" * 3900} for number in range(14)]
    async with opened("sqlite", tmp_path) as jobs:
        id = await start(jobs, "telling", targets=targets, times=25)
        await end(jobs, id)
        shot = (await jobs.read_history(ALICE, id)).snapshot()
        assert shot["brief"] is True
        assert len(shot["states"]) == 14 * 25
        assert set(map(str, shot["states"].values())) == {"{'state': 'ok'}"}
        small = await start(jobs, "telling", targets=targets)
        await end(jobs, small)
        shot = (await jobs.read_history(ALICE, small)).snapshot()
        assert (shot["brief"], shot["states"]["13"]["output"]) == (False, "x" * 3900)


async def test_however_long_the_names_of_its_targets_a_job_and_its_retry_fit_into_an_outbox(tmp_path: Path) -> None:
    """The default outbox is 4 MiB. A character outside ASCII is sent as six characters."""
    letter = "\N{CYRILLIC SMALL LETTER YA}"
    name = letter * 190
    async with opened("sqlite", tmp_path) as jobs:
        id = await start(jobs, "telling", targets=[{"name": name, "state": "failed"}], times=4000)
        await end(jobs, id)
        shot = (await jobs.read_history(ALICE, id)).snapshot()
        assert (shot["brief"], shot["targets"]) == (True, {"failed": 4000})
        assert list(shot["states"])[:2] == [name, f"{name}-1"]
        assert len(dumps(shot)) < 2 << 20
        again, _ = await jobs.retry(ALICE, id, RetryRequest(only="failed", client_id="again"))
        first = (await groups(jobs, again))[0]["events"][0]
        assert (first["only"][:2], first["only_count"]) == ([name, f"{name}-1"], 4000)
        assert len(dumps(first)) < 256 << 10
        loud = await start(jobs, "loud", lines=100, text=letter * 3990)
        await end(jobs, loud)
        shot = (await jobs.read_history(ALICE, loud)).snapshot()
        assert shot["log"][-1]["line"].startswith("99 ")
        assert len(dumps(shot)) < 1 << 20


async def test_control_characters_are_removed_and_long_texts_are_cut(tmp_path: Path) -> None:
    texts = ["\x1b[31mred\x1b[0m\x07!", "x" * 5000, "one\ntwo\r\nthree", "left \u202e right", "", "\x1b]0;title\x07end"]
    targets = [
        {"name": "a\x1b[2Jb", "state": "ok", "output": "first\r\nsecond\x00", "list": ["y" * 5000]},
        {"name": "c", "state": "failed", "output": "z" * 20_000, "number": 7, "type": "nonsense"},
        {"name": "d", "state": "ok", "many": ["word"] * 3000},
    ]
    async with opened("sqlite", tmp_path) as jobs:
        events = await all_events(jobs, await start(jobs, "telling", logs=texts, targets=targets))
        logged = lines(events)
        assert logged[0] == "red\N{REPLACEMENT CHARACTER}!"
        assert logged[1] == "x" * 4000 + " ... and 1,000 characters more"
        assert logged[2:] == ["one", "two", "three", "left \N{REPLACEMENT CHARACTER} right", "", "end"]
        a, c, d = (event for event in events if event["type"] == "target")
        assert (a["name"], a["output"]) == ("ab", "first\nsecond\N{REPLACEMENT CHARACTER}")
        assert (c["state"], c["number"], c["output"]) == ("failed", 7, "z" * 4000 + " ... and 16,000 characters more")
        assert d == {"type": "target", "name": "d", "state": "ok", "cut": True}


async def test_members_of_targets_are_limited_and_all_states_are_stored(tmp_path: Path) -> None:
    targets = [{"name": f"{number}", "state": "ok", "output": "x" * 1000} for number in range(50)]
    async with opened("sqlite", tmp_path, job_log_bytes=20_000) as jobs:
        events = await all_events(jobs, await start(jobs, "telling", targets=targets))
        outputs = [event.get("output") for event in events if event["type"] == "target"]
        assert len(outputs) == 50
        assert 10 < len([each for each in outputs if each]) < 20
        assert events[-1]["targets"] == {"ok": 50}


async def test_too_many_targets_fail_the_job(tmp_path: Path) -> None:
    targets = [{"name": f"{number}", "state": "ok"} for number in range(11)]
    async with opened("sqlite", tmp_path, job_targets=10) as jobs:
        last = await end(jobs, await start(jobs, "telling", targets=targets))
        assert (last["type"], last["code"], last["targets"]) == ("failed", "too_large", {"ok": 10})


@pytest.mark.parametrize(
    ("result", "cut"), [("object()", "is not JSON"), ("float('nan')", "is not JSON"), ("'x' * 300_000", "300,002")]
)
async def test_a_result_that_cannot_be_sent_is_left_out_with_the_reason(tmp_path: Path, result: str, cut: str) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        last = await end(jobs, await start(jobs, "telling", result=result))
        assert (last["type"], last["result"]) == ("succeeded", None)
        assert cut in last["cut"]


async def test_tasks_go_through_the_queue_and_files_into_the_store(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path, job_tasks=3) as jobs:
        last = await end(jobs, await start(jobs, "working", tasks=20))
        assert last["type"] == "succeeded", last
        kept = last["result"]["kept"]
        assert (last["result"]["tasks"], kept["name"]) == (20, "all.zip")
        assert kept["url"].startswith("http://here/media/")
        found = tmp_path / "media" / kept["url"].removeprefix("http://here/media/")
        assert found.stat().st_size == kept["bytes"]


async def test_a_task_that_outlives_its_job_cannot_report(tmp_path: Path) -> None:
    async with opened("sqlite", tmp_path) as jobs:
        assert (await end(jobs, await start(jobs, "late")))["type"] == "succeeded"
        (task,) = kinds_of_jobs.TASKS
        await asyncio.wait({task}, timeout=60)
        kinds_of_jobs.TASKS.clear()
        assert task.cancelled()


def test_the_estimated_time_ends_with_its_stage() -> None:
    """While a job waits for an answer or packs results, the page must not show an old estimate of three seconds."""
    history = JobHistory("id")
    progress = {"type": "progress", "done": 6, "failed": 0, "total": 12, "eta_s": 3.5}
    for offset, event in enumerate((progress, {"type": "stage", "name": "packing"}), 1):
        history.add(Event(offset, group([dumps(event)])))
    assert history.progress == {"done": 6, "failed": 0, "total": 12, "eta_s": None}
    history.add(Event(3, group([dumps(progress)])))
    assert history.progress["eta_s"] == 3.5


async def test_a_job_whose_events_can_no_longer_be_written_is_ended(tmp_path: Path) -> None:
    async with event_stores.opened("sqlite", tmp_path) as store:
        append, failures = store.broker.append, [RuntimeError("not expected")]

        async def failing(stream: str, data: str, **options: Any) -> int:
            if '"line"' in data and failures:
                raise failures.pop()
            return await append(stream, data, **options)

        store.broker.append = failing  # type: ignore[method-assign]
        async with running_jobs(store.broker, store.marks, store.leases, tmp_path, job_lease=2) as jobs:
            id = await start(jobs, "counting", steps=10_000, pause=0.01)
            assert (await end(jobs, id))["type"] == "interrupted"
