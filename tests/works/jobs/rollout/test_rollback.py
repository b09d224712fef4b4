"""Health checks between batches, rollback, and plans that cannot be run."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rollouts import carry_out, plan, prepare
from tests.support.sshd import Fleet, sshd

HEALTH = "health: {{command: '{}', attempts: 3, pause: 0}}"


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Four hosts, a to d, on one real sshd."""
    fleet = Fleet(tmp_path)
    with sshd(fleet, *"abcd"):
        yield fleet


def files(fleet: Fleet, prefix: str) -> str:
    """Returns the hosts that have this file."""
    return "".join(sorted(path.name[-1] for path in fleet.folder.glob(f"{prefix}-?")))


def touch(fleet: Fleet, prefix: str) -> str:
    return f"touch {fleet.folder}/{prefix}-$host"


async def test_a_health_check_is_repeated_until_the_host_is_healthy(fleet: Fleet) -> None:
    tries = f"{fleet.folder}/tries-$host"
    health = HEALTH.format(f"echo x >> {tries}; test $(wc -l < {tries}) = 3")
    context = await carry_out(prepare(fleet, plan("{name: work, command: 'true'}", stage=health)))
    assert set(context.states().values()) == {"changed"}


async def test_an_unhealthy_host_fails_and_the_next_batch_is_not_started(fleet: Fleet) -> None:
    stage = "batches: [2]\n" + HEALTH.format("test $host != b")
    context = await carry_out(prepare(fleet, plan(f"{{name: work, command: '{touch(fleet, 'work')}'}}", stage=stage)))
    assert files(fleet, "work") == "ab"
    assert context.states() == {"a": "changed", "b": "failed", "c": "not_started", "d": "not_started"}
    assert context.last("b")["code"] == "unhealthy"
    assert context.failure
    assert context.failure.code == "budget"


async def test_a_failed_health_check_on_another_host_stops_the_rollout(fleet: Fleet) -> None:
    stage = "batches: [1]\nhealth: {command: 'test $host != d', hosts: [d], attempts: 1}"
    steps = plan("{name: work, command: 'true'}", stage=stage).replace("[all]", "[a, b, c]")
    context = await carry_out(prepare(fleet, steps))
    assert context.states() == {"a": "changed", "b": "not_started", "c": "not_started"}
    assert context.failure
    assert context.failure.code == "unhealthy"


@pytest.mark.parametrize(("hosts", "undone"), [("failed", "b"), ("all", "ab")])
async def test_a_rollback_runs_on_failed_hosts_or_on_all_started_hosts(fleet: Fleet, hosts: str, undone: str) -> None:
    stage = f"batches: [2]\nrollback: {{hosts: {hosts}, steps: [{{name: back, command: '{touch(fleet, 'back')}'}}]}}"
    steps = [f"{{name: work, command: '{touch(fleet, 'work')}'}}", "{name: start, command: 'test $host != b'}"]
    context = await carry_out(prepare(fleet, plan(*steps, stage=stage)))
    assert files(fleet, "work") == "ab"
    assert files(fleet, "back") == undone
    assert context.state("a") == ("changed" if hosts == "failed" else "failed")
    assert context.state("b") == "failed"
    assert context.last("b")["rolled_back"] == ["install"]
    assert context.last("b")["exit"] == 1
    assert "start: exit status 1; install was rolled back" in context.last("b")["reason"]


async def test_within_the_budget_only_failed_hosts_are_rolled_back(fleet: Fleet) -> None:
    stage = f"rollback: {{hosts: all, steps: [{{name: back, command: '{touch(fleet, 'back')}'}}]}}"
    context = await carry_out(
        prepare(fleet, plan("{name: work, command: 'test $host != b'}", stage=stage, top="budget: 1"))
    )
    assert files(fleet, "back") == "b"
    assert context.states() == dict.fromkeys("acd", "changed") | {"b": "failed"}


async def test_a_failed_rollback_is_reported(fleet: Fleet) -> None:
    stage = "rollback: {steps: [{name: back, command: 'exit 7'}]}"
    steps = plan("{name: work, command: 'exit 3'}", stage=stage).replace("[all]", "[a]")
    context = await carry_out(prepare(fleet, steps))
    assert context.last("a")["reason"] == "work: exit status 3; the rollback of install failed too: back: exit status 7"
    assert context.last("a")["exit"] == 3


async def test_stages_are_rolled_back_in_reverse_order(fleet: Fleet) -> None:
    notes = f"{fleet.folder}/notes"
    stages = "update:\n  hosts: [a]\n  stages:\n"
    for name, work in (("one", "true"), ("two", "false")):
        back = f"{{hosts: all, steps: [{{name: back, command: 'echo {name} >> {notes}'}}]}}"
        stages += f"  - {{name: {name}, steps: [{{name: work, command: '{work}'}}], rollback: {back}}}\n"
    context = await carry_out(prepare(fleet, stages))
    assert Path(notes).read_text().split() == ["two", "one"]
    assert context.last("a")["rolled_back"] == ["two", "one"]


BAD = {
    "a plan that is not there": ({"plan": "upgrade"}, "not_found", "there is no 'upgrade'; there are update"),
    "a parameter that is not there": ({"params": {"mode": "fast", "x": 1}}, "bad_options", "params.x"),
    "a value that is not declared": ({"params": {"mode": "slow"}}, "bad_options", "params.mode"),
    "a parameter that is missing": ({}, "bad_options", "params.mode: must be given"),
    "a host that is not the plan's": ({"params": {"mode": "fast"}, "hosts": ["z"]}, "bad_options", "hosts"),
}


@pytest.mark.parametrize("case", BAD)
async def test_names_that_the_plan_does_not_have_are_refused_before_any_connection(fleet: Fleet, case: str) -> None:
    params, code, message = BAD[case]
    context = prepare(fleet, plan("{name: work, command: 'true'}", top="params: {mode: {choices: [fast]}}"))
    await carry_out(context, **params)
    assert context.failure
    assert context.failure.code == code
    assert message in context.failure.message
    assert context.reports == {}


async def test_all_wrong_parameters_are_reported_together(fleet: Fleet) -> None:
    top = "params: {mode: {choices: [fast]}, count: {type: integer, minimum: 1, maximum: 9}}"
    context = prepare(fleet, plan("{name: work, command: 'true'}", top=top))
    await carry_out(context, params={"mode": "slow", "count": 10, "other": True}, hosts=["y", "z"])
    fields = [error["field"] for error in context.result["errors"]]
    assert sorted(fields) == ["hosts", "hosts", "params.count", "params.mode", "params.other"]


UNUSABLE = {
    "no file of plans": ({"plans": ""}, "plans"),
    "a file of plans that is away": ({"plans": "/nowhere/plans.yaml"}, "plans"),
    "no key": ({"ssh_key": ""}, "ssh_key"),
    "a key that is away": ({"ssh_key": "/nowhere/key"}, "ssh_key: No such file"),
    "no known hosts": ({"ssh_known_hosts": ""}, "ssh_known_hosts"),
    "known hosts that are away": ({"ssh_known_hosts": "/nowhere"}, "ssh_known_hosts: No such file"),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_a_missing_setting_is_named(fleet: Fleet, case: str) -> None:
    settings, message = UNUSABLE[case]
    context = prepare(fleet, plan("{name: work, command: 'true'}"), **settings)
    await carry_out(context)
    assert context.failure
    assert context.failure.code == "unavailable"
    assert message in context.failure.message
    assert context.reports == {}
