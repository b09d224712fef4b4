"""In whatever order users join, send, leave, disconnect and reconnect, chat behaves as a simple model.

There is no gap and no repeat; order, acknowledged offsets, unread counts and presence are right. Hypothesis chooses the
steps, the same in each run. Seen to fail with a replay that begins one event early or late, with marks that move
backward, with Inbox._catch_up from 0, with post without its id, its marks or its notification, and with any part
removed from on_leave (cancel the join, drop the fanout, remove the mark).
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.reliability.talks import Talk
from tests.support.running import GUARD, Server

pytestmark = pytest.mark.chaos


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all examples. Each example uses its own names."""
    flags = {"connections_per_user": 100, "connections_per_address": 500, "chat_rate": 100_000}
    running = Server(tmp_path_factory.mktemp("talk"), **flags)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


ACTIONS = ("drop", "join", "say", "say", "say_and_drop", "read", "history", "leave")
STEPS = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4), st.integers(0, 4), st.integers(0, 3)),
    min_size=10,
    max_size=40,
)
# Failing examples are not shrunk: that takes minutes, and the model already shows what it expected.
PHASES = (Phase.explicit, Phase.generate)
SHORT = settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=PHASES,
    report_multiple_bugs=False,
)


async def agree(server: Server, steps: list[tuple[str, int, int, int]]) -> None:
    talk = Talk(server)
    async with asyncio.timeout(2 * GUARD):
        for action, device, where, how in steps:
            await talk.step(action, talk.devices[device], where, how)
        await talk.check()


@pytest.mark.timeout(900)
@SHORT
@given(steps=STEPS)
async def test_whatever_people_do_they_hear_what_the_model_says(talk: Server, steps: Any) -> None:
    await agree(talk, steps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(SHORT, max_examples=400)
@given(steps=STEPS)
async def test_whatever_people_do_for_long_they_hear_what_the_model_says(talk: Server, steps: Any) -> None:
    await agree(talk, steps)
