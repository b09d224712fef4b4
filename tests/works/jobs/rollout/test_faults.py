"""Hosts that hang, lie, disconnect or send too much. Each ends in one state, and unknown outcomes are
reported as such.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import psutil
import pytest

from tests.support.rollouts import Recorder, carry_out, plan, prepare
from tests.support.running import until
from tests.support.sshd import Fleet, gone, make_key, refusing, silent, sshd, strange

pytestmark = pytest.mark.chaos

TRUE = "{name: work, command: 'true'}"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def begun(fleet: Fleet) -> dict[str, int]:
    """Returns the hosts on which a command has printed its process id, with ``SAY``."""
    files = {path: path.read_text() for path in fleet.folder.glob("pid-*")}
    return {path.name.removeprefix("pid-"): int(text) for path, text in files.items() if text.endswith("\n")}


def say(fleet: Fleet) -> str:
    return f"echo $$ > {fleet.folder}/pid-$host"


async def test_a_host_that_sends_nothing_or_refuses_is_unreachable(fleet: Fleet) -> None:
    with refusing(fleet, "shut"):
        async with silent(fleet, "mute"):
            shut = await carry_out(prepare(fleet, plan(TRUE)), hosts=["shut"])
            mute = await carry_out(prepare(fleet, plan(TRUE), ssh_connect_timeout=1), hosts=["mute"])
    assert (shut.state("shut"), mute.state("mute")) == ("unreachable", "unreachable")
    assert (shut.last("shut")["code"], shut.last("shut")["reason"]) == ("refused", "Connection refused")
    assert mute.last("mute")["code"] == "timeout"


def another_key(fleet: Fleet, port: int) -> str:
    return f"[127.0.0.1]:{port} {make_key(fleet.folder / 'other')}"


def revoked(fleet: Fleet, port: int) -> str:
    known = (fleet.folder / "sshd-a.pub").read_text().strip()
    return f"[127.0.0.1]:{port} {known}\n@revoked * {known}"


def rsa(fleet: Fleet, port: int) -> str:
    key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    return f"[127.0.0.1]:{port} {key.export_public_key().decode()}"


KEYS: dict[str, tuple[Callable[[Fleet, int], str], str]] = {
    "not known": (lambda fleet, port: "", "known_hosts has no key for"),
    "another": (another_key, "the host's key differs from that in known_hosts for"),
    "of another kind": (rsa, "the host's key differs from that in known_hosts for"),
    "revoked": (revoked, "nothing was run"),
}


@pytest.mark.parametrize("case", KEYS)
async def test_nothing_is_run_on_a_host_whose_key_is_not_the_known_one(fleet: Fleet, case: str) -> None:
    line, message = KEYS[case]
    with sshd(fleet, "a", known=False) as server:
        fleet.known_hosts.write_text(line(fleet, server.ports[0]) + "\n")
        command = f"touch {fleet.folder}/ran"
        steps = plan(
            f"{{name: work, check: 'touch {fleet.folder}/ran', command: '{command}'}}",
            stage=f"rollback: {{steps: [{{name: back, command: '{command}'}}]}}",
        )
        context = await carry_out(prepare(fleet, steps))
        assert "Accepted" not in server.log.read_text()
    assert context.state("a") == "unreachable"
    assert context.last("a")["code"] == "host_key"
    assert message in context.last("a")["reason"]
    assert not (fleet.folder / "ran").exists()


async def test_a_host_that_does_not_take_our_key_is_unreachable(fleet: Fleet) -> None:
    with sshd(fleet, "a"):
        make_key(fleet.folder / "stranger")
        context = await carry_out(prepare(fleet, plan(TRUE), ssh_key=str(fleet.folder / "stranger")))
    assert context.last("a")["code"] == "denied"


async def test_a_connection_lost_during_a_command_leaves_the_outcome_unknown(fleet: Fleet) -> None:
    async def drop(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        process.stdout.write(b"half a li")
        await process.stdout.drain()
        process.channel.get_connection().abort()

    async with strange(fleet, drop, "a"):
        context = await carry_out(prepare(fleet, plan(TRUE)))
    end = context.last("a")
    assert (end["state"], end["code"], end["known"]) == ("failed", "lost", False)
    assert context.result["not_known"] == ["a"]


STUBBORN = {"a command that hangs": "", "a command that ignores TERM": "trap '''' TERM; "}


@pytest.mark.parametrize("case", STUBBORN)
async def test_a_command_that_exceeds_its_timeout_is_ended_on_the_host(fleet: Fleet, case: str) -> None:
    with sshd(fleet, "a"):
        work = f"{say(fleet)}; {STUBBORN[case]}sleep 600; sleep 600"
        # A second is enough to time out a command that sleeps. A host that is slow to start it times out too.
        steps = plan("{name: warm, command: 'true'}", f"{{name: hang, command: '{work}', timeout: 3}}")
        context = await carry_out(prepare(fleet, steps, rollout_kill_timeout=20))
        end = context.last("a")
        assert (end["state"], end["code"]) == ("failed", "timeout")
        assert "hang did not finish within 3 s" in end["reason"]
        assert "known" not in end
        assert all(map(gone, begun(fleet).values()))


async def test_a_host_that_cannot_be_stopped_is_in_an_unknown_state(fleet: Fleet) -> None:
    started = asyncio.Event()

    async def sit(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        started.set()
        await asyncio.sleep(600)

    async with strange(fleet, sit, "a"):
        step = "{name: work, command: 'true', timeout: 0.5}"
        while not started.is_set():  # a busy machine may take this long to start it
            context = await carry_out(prepare(fleet, plan(step), rollout_kill_timeout=0.5))
    end = context.last("a")
    assert (end["state"], end["known"]) == ("failed", False)
    assert "not known whether it has ended" in end["reason"]


async def test_a_background_process_does_not_delay_the_rollout(fleet: Fleet) -> None:
    with sshd(fleet, "a"):
        step = f"{{name: work, command: 'sleep 600 & echo $! > {fleet.folder}/pid-$host; echo started', timeout: 300}}"
        context = await carry_out(prepare(fleet, plan(step)))
        assert context.state("a") == "changed"
        assert context.lines_of("a")[0] == "started"
        (left,) = begun(fleet).values()
        psutil.Process(left).kill()


@pytest.mark.parametrize("noise", ["tr '\\0' x < /dev/zero", "yes A line.", "cat /dev/urandom"])
async def test_a_hundred_megabytes_of_output_cost_a_few_kilobytes(fleet: Fleet, noise: str) -> None:
    with sshd(fleet, "a"):
        command = f'"{noise.replace(chr(92), chr(92) * 2)} | head -c 100000000; echo; echo the end"'
        step = f"{{name: work, command: {command}, timeout: 300, changed_when: {{output: the end}}}}"
        context = await carry_out(prepare(fleet, plan(step), rollout_output=10_000, rollout_tail=1000))
    end = context.last("a")
    assert end["state"] == "changed"
    assert end["output_bytes"] == 100_000_009
    assert end["output"].startswith("(99,999,009 earlier bytes were dropped)\n")
    assert end["output"].endswith("the end\n")
    assert len(end["output"]) < 1100
    assert sum(map(len, context.lines_of("a"))) < 11_000
    assert any("more than is shown here" in line for line in context.lines_of("a"))


async def cancelled(context: Recorder, ready: Callable[[], bool]) -> None:
    work = asyncio.create_task(carry_out(context))
    await until(ready)
    work.cancel()
    await work


async def test_a_cancel_ends_running_commands_and_reports_the_progress_of_each_host(fleet: Fleet) -> None:
    with sshd(fleet, *"abcde"):
        work = f"test $host != a || exit 0; {say(fleet)}; sleep 600; sleep 600"
        context = prepare(fleet, plan(f"{{name: work, command: '{work}', timeout: 900}}", stage="forks: 2"))
        await cancelled(context, lambda: len(begun(fleet)) == 2)
        assert context.states() == {
            "a": "changed",
            "b": "cancelled",
            "c": "cancelled",
            "d": "not_started",
            "e": "not_started",
        }
        await until(lambda: all(map(gone, begun(fleet).values())))
    assert context.failure
    assert context.failure.code == "cancelled"
    assert context.result["not_known"] == []


class Hesitant(Recorder):
    """A context that takes long to record the first final state."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.reported, self.go_on = asyncio.Event(), asyncio.Event()

    async def target(self, name: str, state: str, **more: Any) -> None:
        if state == "changed":
            self.reported.set()
            await self.go_on.wait()
        await super().target(name, state, **more)


async def test_a_cancel_during_the_report_of_a_state_neither_loses_nor_doubles_it(fleet: Fleet) -> None:
    with sshd(fleet, *"ab"):
        plain = prepare(fleet, plan(TRUE, stage="batches: [1]"))
        context = Hesitant(plain.resources.rollout.model_dump(), fleet.folder)
        work = asyncio.create_task(carry_out(context))
        await until(context.reported.is_set)
        work.cancel()
        await until(lambda: work.cancelling() and len(context.reports["a"]) == 2)
        asyncio.get_running_loop().call_later(0.2, context.go_on.set)
        await work
    assert context.states() == {"a": "changed", "b": "not_started"}


async def test_a_cancel_reports_unknown_outcomes(fleet: Fleet) -> None:
    started = asyncio.Event()

    async def sit(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        started.set()
        await asyncio.sleep(600)

    async with strange(fleet, sit, "a"):
        context = prepare(fleet, plan(TRUE, stage="host_timeout: 900"), rollout_kill_timeout=0.5)
        await cancelled(context, started.is_set)
    assert context.state("a") == "cancelled"
    assert "not known whether its command has ended" in context.last("a")["reason"]
    assert context.result["not_known"] == ["a"]


async def test_at_the_deadline_running_commands_are_ended_and_other_hosts_are_not_started(fleet: Fleet) -> None:
    with sshd(fleet, *"abc"):
        step = f"{{name: work, command: '{say(fleet)}; sleep 600; sleep 600', timeout: 900}}"
        context = prepare(fleet, plan(step, top="deadline: 24", stage="batches: [1]"), rollout_kill_timeout=12)
        await carry_out(context)
        reached = begun(fleet)
        assert (context.state("b"), context.state("c")) == ("not_started", "not_started")
        # On a busy machine it may not be there yet.
        assert context.state("a") == "failed" or not reached
        assert all(map(gone, reached.values()))
    assert context.failure
    assert context.failure.code == "timeout"
