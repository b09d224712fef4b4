"""Many hosts, some of which hang or lie. The rollout ends, and every host ends in exactly one state."""

import asyncio
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest

from tests.support.rollouts import carry_out, plan, prepare
from tests.support.sshd import Fleet, silent, sshd, strange

pytestmark = pytest.mark.chaos


async def hang(process: object) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("servers", "each", "mute", "hung", "liars", "forks", "patience"),
    [
        pytest.param(3, 5, 1, 1, 3, 6, 30, id="20 hosts"),
        pytest.param(17, 10, 10, 10, 10, 50, 90, id="200 hosts", marks=[pytest.mark.slow, pytest.mark.timeout(700)]),
    ],
)
async def test_a_rollout_ends_although_some_hosts_hang_or_lie(
    tmp_path: Path, servers: int, each: int, mute: int, hung: int, liars: int, forks: int, patience: float
) -> None:
    fleet = Fleet(tmp_path)
    ran: list[str] = []

    async def lie(process: object) -> None:
        ran.append("a host with a wrong key")

    async with AsyncExitStack() as stack:
        real = stack.enter_context(ExitStack())
        for server in range(servers):
            real.enter_context(sshd(fleet, *(f"well{server}-{number}" for number in range(each))))
        await stack.enter_async_context(silent(fleet, *(f"mute{number}" for number in range(mute))))
        await stack.enter_async_context(strange(fleet, hang, *(f"hung{number}" for number in range(hung))))
        await stack.enter_async_context(strange(fleet, lie, *(f"liar{number}" for number in range(liars)), lie=True))
        step = f"{{name: work, command: 'echo $host >> {tmp_path}/notes', timeout: {patience}}}"
        top = "budget: 100%\ndeadline: 600"
        text = plan(step, top=top, stage=f"batches: [1, 10%, 100%]\nforks: {forks}")
        context = prepare(fleet, text, ssh_connect_timeout=patience, rollout_kill_timeout=2)
        await carry_out(context)

    assert {
        name: context.last(name) for name, state in context.states().items() if "well" in name and state != "changed"
    } == {}
    assert context.failure is None
    states = {name.rstrip("0123456789-"): set() for name in fleet.hosts}
    for name, state in context.states().items():
        states[name.rstrip("0123456789-")].add(state)
    assert states == {"well": {"changed"}, "mute": {"unreachable"}, "hung": {"failed"}, "liar": {"unreachable"}}
    assert {context.last(f"liar{number}")["code"] for number in range(liars)} == {"host_key"}
    assert sorted((tmp_path / "notes").read_text().split()) == sorted(n for n in fleet.hosts if n.startswith("well"))
    assert ran == []
    assert context.steps[-1] == (len(fleet.hosts), mute + hung + liars, len(fleet.hosts))
