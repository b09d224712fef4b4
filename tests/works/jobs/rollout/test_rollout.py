"""A rollout follows its plan on real hosts: which commands run where, in which order, and how each host ends."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rollouts import carry_out, plan, prepare
from tests.support.running import until
from tests.support.sshd import Fleet, sshd


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Five hosts, a to e, on one real sshd."""
    fleet = Fleet(tmp_path)
    with sshd(fleet, *"abcde"):
        yield fleet


def noted(fleet: Fleet) -> list[str]:
    """Returns the lines that commands have written to the file ``notes``."""
    notes = fleet.folder / "notes"
    return notes.read_text().split() if notes.exists() else []


def note(fleet: Fleet, what: str = "$host") -> str:
    return f"echo {what} >> {fleet.folder}/notes"


async def test_each_host_ends_in_the_state_of_its_steps(fleet: Fleet) -> None:
    context = prepare(
        fleet,
        plan(
            "{name: checked, check: 'test $host = a', command: 'echo did it'}",
            "{name: asked, command: 'test $host != b || exit 9', changed_when: {exit: 9}}",
            "{name: marked, command: 'echo it was ${host}HANGED | tr c C', changed_when: {output: CHANGED}}",
            "{name: looked, command: 'test $host != d', changed_when: never}",
            top="budget: 1",
        ),
    )
    await carry_out(context)
    assert context.failure is None
    assert context.states() == {"a": "ok", "b": "changed", "c": "changed", "d": "failed", "e": "changed"}
    states = [[step["state"] for step in context.last(name).get("steps", [])] for name in "abcd"]
    assert states[0] == ["ok"] * 4
    assert states[1] == ["changed", "changed", "ok", "ok"]
    assert states[2] == ["changed", "ok", "changed", "ok"]
    assert states[3] == ["changed", "ok", "ok", "failed"]
    assert context.last("d")["exit"] == 1
    assert "did it" in context.last("e")["output"]
    assert "did it" in context.lines_of("e")
    assert context.result["states"] == {"ok": 1, "changed": 3, "failed": 1}
    assert context.steps[-1] == (5, 1, 5)


async def test_batches_run_in_sequence_with_at_most_forks_hosts_at_the_same_time(fleet: Fleet) -> None:
    stage = "batches: [1, 60%, 100%]\nforks: 2"
    work = f"{note(fleet, '+$host')}; sleep 0.1; {note(fleet, '-$host')}"
    context = await carry_out(prepare(fleet, plan(f"{{name: work, command: '{work}'}}", stage=stage)))
    assert set(context.states().values()) == {"changed"}
    order = noted(fleet)
    assert [{each[1] for each in part} for part in (order[:2], order[2:8], order[8:])] == [{"a"}, set("bcd"), {"e"}]
    at_work = [sum(1 if each[0] == "+" else -1 for each in order[: index + 1]) for index in range(len(order))]
    assert max(at_work) <= 2


@pytest.mark.parametrize(("budget", "visited"), [("0", "ab"), ("1", "abc"), ("'40%'", "abcd"), ("5", "abcde")])
async def test_the_failure_budget_stops_the_rollout(fleet: Fleet, budget: str, visited: str) -> None:
    """All hosts but the first fail. The rollout stops at the failure that exceeds the budget."""
    step = f"{{name: work, command: '{note(fleet)}; test $host = a'}}"
    context = await carry_out(prepare(fleet, plan(step, top=f"budget: {budget}", stage="batches: [1]")))
    assert noted(fleet) == list(visited)
    ends = {"a": "changed"} | dict.fromkeys("bcde", "not_started") | dict.fromkeys(visited[1:], "failed")
    assert context.states() == ends
    assert (context.failure.code if context.failure else "") == ("" if budget == "5" else "budget")


async def test_no_further_host_of_a_batch_is_started_when_the_budget_is_used_up(fleet: Fleet) -> None:
    step = f"{{name: work, command: '{note(fleet)}; false'}}"
    context = await carry_out(prepare(fleet, plan(step, stage="forks: 1")))
    assert noted(fleet) == ["a"]
    assert list(context.states().values()) == ["failed"] + ["not_started"] * 4


async def test_a_dry_run_reports_the_steps_and_runs_only_checks(fleet: Fleet) -> None:
    check = f"{note(fleet, 'check')}; test $host = a"
    steps = [f"{{name: work, check: '{check}', command: '{note(fleet, 'work')}'}}", "{name: more, command: 'touch x'}"]
    stage = f"approve: all\nhealth: {{command: '{note(fleet, 'health')}'}}"
    context = await carry_out(prepare(fleet, plan(*steps, stage=stage)), dry_run=True)
    assert noted(fleet) == ["check"] * 5
    assert set(context.states().values()) == {"changed"}
    assert context.questions == []
    assert context.result["dry_run"] is True
    assert context.lines_of("a") == ["work: would be ok", "would run: touch x", "more: would be changed"]
    assert f"would run: {note(fleet, 'work')}" in context.lines_of("b")


async def test_a_host_that_failed_takes_no_part_in_later_stages(fleet: Fleet) -> None:
    both = f"""
update:
  hosts: [all]
  budget: 1
  stages:
  - {{name: first, steps: [{{name: work, command: 'test $host != b'}}]}}
  - {{name: second, hosts: [b, c, e], steps: [{{name: work, command: '{note(fleet)}'}}]}}
"""
    context = await carry_out(prepare(fleet, both))
    assert sorted(noted(fleet)) == ["c", "e"]
    assert context.states() == dict.fromkeys("acde", "changed") | {"b": "failed"}
    assert context.stages == ["first", "second"]
    assert context.steps[-1] == (8, 1, 8)


async def test_hosts_that_stop_between_stages_report_their_finished_stages(fleet: Fleet) -> None:
    both = """
update:
  hosts: [a, b]
  stages:
  - {name: first, steps: [{name: work, command: 'true'}]}
  - {name: second, batches: [1], steps: [{name: work, command: 'false'}]}
"""
    context = await carry_out(prepare(fleet, both))
    assert context.states() == {"a": "failed", "b": "not_started"}
    assert context.last("b")["done"] == ["first"]
    assert "before its stage second" in context.last("b")["reason"]


async def test_a_retry_runs_only_the_requested_hosts(fleet: Fleet) -> None:
    step = f"{{name: work, command: '{note(fleet)}'}}"
    context = await carry_out(prepare(fleet, plan(step), only=frozenset({"b", "d", "gone"})))
    assert sorted(noted(fleet)) == ["b", "d"]
    assert context.states() == {"b": "changed", "d": "changed", "a": "skipped", "c": "skipped", "e": "skipped"}
    assert context.result["skipped"] == 3


async def test_a_rollout_may_be_limited_to_some_of_the_plans_hosts(fleet: Fleet) -> None:
    step = f"{{name: work, command: '{note(fleet)}'}}"
    context = await carry_out(prepare(fleet, plan(step)), hosts=["e", "a"])
    assert sorted(noted(fleet)) == ["a", "e"]
    assert context.state("c") == "skipped"


async def test_a_value_arrives_unchanged_and_is_never_executed(fleet: Fleet) -> None:
    """Values that would be commands if they were inserted into the text of a command."""
    evil = "'; kill $$; echo \"$(kill $$)\" `kill $$` \\ *'\n#"
    top = "params: {text: {pattern: '(?s:.*)'}}"
    command = f'printf %s "$text" > {fleet.folder}/text-$host; echo "text: $text"; test "it is $text" != ""'
    context = await carry_out(
        prepare(fleet, plan(f"{{name: work, command: '{command}'}}", top=top)), params={"text": evil}
    )
    assert set(context.states().values()) == {"changed"}
    assert [(fleet.folder / f"text-{name}").read_text() for name in "abcde"] == [evil] * 5


async def test_a_failing_line_or_an_unset_variable_ends_a_command(fleet: Fleet) -> None:
    steps = plan('{name: work, command: "test $host != a\\necho ${vresion:-}\\necho $vresion\\ntouch x"}')
    context = await carry_out(prepare(fleet, steps.replace("hosts: [all]", "hosts: [a, b]\n  budget: 2")))
    assert context.states() == {"a": "failed", "b": "failed"}
    assert "output" not in context.last("a")
    assert "vresion" in context.last("b")["output"]


async def test_a_batch_waits_for_an_approval(fleet: Fleet) -> None:
    step = f"{{name: work, command: '{note(fleet)}'}}"
    context = prepare(fleet, plan(step, stage="batches: [2]\napprove: batches"))
    done = asyncio.create_task(carry_out(context))
    await until(lambda: context.questions)
    assert sorted(noted(fleet)) == ["a", "b"]
    assert context.questions[0]["hosts"] == ["c", "d"]
    context.answers.put_nowait(True)
    await until(lambda: len(context.questions) == 2)
    assert sorted(noted(fleet)) == list("abcd")
    context.answers.put_nowait(False)
    await done
    assert context.failure
    assert context.failure.code == "refused"
    assert context.states() == dict.fromkeys("abcd", "changed") | {"e": "not_started"}


async def test_a_refused_stage_is_not_started(fleet: Fleet) -> None:
    context = prepare(fleet, plan(f"{{name: work, command: '{note(fleet)}'}}", stage="batches: [1]\napprove: stage"))
    context.answers.put_nowait(False)
    await carry_out(context)
    assert noted(fleet) == []
    assert set(context.states().values()) == {"not_started"}


async def test_waiting_for_an_approval_does_not_count_for_the_deadline(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    clock, passed = loop.time, 0.0
    monkeypatch.setattr(loop, "time", lambda: clock() + passed)
    top = "deadline: 3600"
    context = prepare(fleet, plan("{name: work, command: 'true'}", top=top, stage="approve: stage"))
    done = asyncio.create_task(carry_out(context))
    await until(lambda: context.questions)
    passed = 7200
    await asyncio.sleep(0.1)  # lets timers run that are due
    assert not done.done()
    context.answers.put_nowait(True)
    await done
    assert set(context.states().values()) == {"changed"}
