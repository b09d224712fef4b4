"""Rollouts on the real server, over its socket, with real hosts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import Client
from tests.support.rollouts import plan, prepare, serve_rollouts
from tests.support.running import Server, Start, until
from tests.support.sshd import Fleet, gone, sshd
from works.jobs.batch.job import BatchParams
from works.jobs.rollout.job import RolloutParams


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    folder = tmp_path / "hosts"
    folder.mkdir()
    fleet = Fleet(folder)
    with sshd(fleet, *"abc"):
        yield fleet


async def connect(server: Server) -> Client:
    return await Client.connect(server, path="/ws/jobs", token=server.token("alice", "jobs"))


async def begin(client: Client, **params: Any) -> str:
    """Starts a rollout and watches it from its first event. Returns its id."""
    await client.send("start", job="rollout", params={"plan": "update"} | params, client_id="one")
    id = (await client.wait_for("accepted"))["id"]
    await client.send("watch", id=id, after=0)
    await client.wait_for("watching", id=id)
    return str(id)


async def rest_of(client: Client, id: str) -> list[dict[str, Any]]:
    """Returns the remaining events of the job, up to the last one."""
    events: list[dict[str, Any]] = []
    while True:
        message = await client.wait_for("events", id=id)
        events += message["events"]
        if "ended" in message:
            return events


def last_states(events: list[dict[str, Any]]) -> dict[str, str]:
    return {event["name"]: event["state"] for event in events if event["type"] == "target"}


async def test_existing_plans_and_folders_are_offered_until_they_are_removed(start_here: Start, fleet: Fleet) -> None:
    text = plan("{name: one, command: 'true'}", top="params: {version: {choices: ['1']}}")
    plans = prepare(fleet, text).resources.rollout.plans_path
    assert plans
    server = start_here(plans=str(plans), folders=f"films={fleet.folder},art={fleet.folder}")

    async def offered(kind: str, field: str) -> tuple[list[str], str]:
        async with await connect(server) as client:
            schema = client.hello["jobs"][kind]["params"]["properties"][field]
        assert "from" not in schema
        return schema["examples"], schema["description"]

    about_plan = RolloutParams.model_fields["plan"].description
    about_folder = BatchParams.model_fields["folder"].description
    assert await offered("rollout", "plan") == (["update"], f"{about_plan} Available: update (version).")
    assert await offered("batch", "folder") == (["art", "films"], f"{about_folder} Available: art, films.")
    for broken in ("plans: [", ""):
        plans.write_text(broken)
        assert await offered("rollout", "plan") == ([], f"{about_plan} Available: none.")
    plans.unlink()
    assert (await offered("rollout", "plan"))[0] == []


async def test_a_rollout_reports_its_progress_and_failures_can_be_retried(start_here: Start, fleet: Fleet) -> None:
    flag = fleet.folder / "mended"
    work = f'printf "\\033[31mhello $host\\n"; test $host != b || test -e {flag}'
    server = serve_rollouts(start_here, fleet, plan(f"{{name: work, command: '{work}'}}", top="budget: 1"))
    async with await connect(server) as client:
        schema = client.hello["jobs"]["rollout"]["params"]
        assert set(schema["properties"]) == {"plan", "params", "hosts", "dry_run"}
        id = await begin(client)
        events = await rest_of(client, id)
        assert last_states(events) == {"a": "changed", "b": "failed", "c": "changed"}
        end = events[-1]
        assert (end["type"], end["result"]["states"]) == ("succeeded", {"changed": 2, "failed": 1})
        assert end["unknown"] == []
        lines = {(event["target"], event["line"]) for event in events if event["type"] == "log"}
        assert {("a", "hello a"), ("b", "hello b"), ("b", "failed: work: exit status 1")} <= lines
        (failed,) = [event for event in events if event.get("name") == "b" and event.get("state") == "failed"]
        assert (failed["exit"], failed["reason"]) == (1, "work: exit status 1")
        flag.touch()
        await client.send("retry", id=id, only="failed", client_id="two")
        again = (await client.wait_for("accepted"))["id"]
        await client.send("watch", id=again, after=0)
        assert last_states(await rest_of(client, again)) == {"a": "skipped", "b": "changed", "c": "skipped"}


async def test_all_invalid_parameters_are_reported_together(start_here: Start, fleet: Fleet) -> None:
    server = serve_rollouts(
        start_here, fleet, plan("{name: work, command: 'true'}", top="params: {mode: {choices: [fast]}}")
    )
    async with await connect(server) as client:
        await client.send("start", job="rollout", params={"plann": "x", "dry_run": "perhaps"}, client_id="one")
        error = await client.wait_for("error", client_id="one")
        assert {each["field"] for each in error["errors"]} == {"plan", "plann", "dry_run"}
        end = (await rest_of(client, await begin(client, params={"mode": "slow", "x": 1})))[-1]
        assert (end["type"], end["code"]) == ("failed", "bad_options")
        assert {each["field"] for each in end["result"]["errors"]} == {"params.mode", "params.x"}


async def test_a_cancel_over_the_socket_ends_what_runs_on_the_hosts(start_here: Start, fleet: Fleet) -> None:
    work = f"echo $$ > {fleet.folder}/pid-$host; sleep 600; sleep 600"
    server = serve_rollouts(
        start_here, fleet, plan(f"{{name: work, command: '{work}', timeout: 900}}", stage="forks: 2")
    )

    def pids() -> list[int]:
        return [int(path.read_text()) for path in fleet.folder.glob("pid-*") if path.read_text().endswith("\n")]

    async with await connect(server) as client:
        id = await begin(client)
        await until(lambda: len(pids()) == 2)
        await client.send("cancel", id=id)
        events = await rest_of(client, id)
        assert events[-1]["type"] == "cancelled"
        assert events[-1]["result"]["not_known"] == []
        assert sorted(last_states(events).values()) == ["cancelled", "cancelled", "not_started"]
        await until(lambda: all(map(gone, pids())))


async def test_a_person_who_watches_approves(start_here: Start, fleet: Fleet) -> None:
    server = serve_rollouts(start_here, fleet, plan("{name: work, command: 'true'}", stage="approve: stage"))
    async with await connect(server) as client:
        id = await begin(client)
        asked: list[dict[str, Any]] = []
        while not asked:
            message = await client.wait_for("events", id=id)
            asked = [event for event in message["events"] if event["type"] == "approval"]
        assert asked[0]["hosts"] == ["a", "b", "c"]
        await client.send("answer", id=id, approval=asked[0]["approval"], ok=True)
        assert set(last_states(await rest_of(client, id)).values()) == {"changed"}
