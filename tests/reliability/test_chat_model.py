"""Compares chat with a simple model, while users join, write, leave, lose their connections and reconnect in any order.

The test checks that messages have no gap, no repetition and the right order. It also checks the acknowledged offsets,
the unread counts after a connect and after each change, and the list of present users. Hypothesis chooses the steps,
and each run has the same steps.

This test fails with any of these defects: a replay that starts one event too early or too late; a mark that moves
backward; Inbox._catch_up that reads from offset 0; Chat.post without the id, without the marks or without the
notification. It also fails when on_leave omits one of its steps: cancelling a running join, leaving the fanouts, or
removing the mark.
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
    """Starts one server for all examples. Each example uses different names."""
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
# Failed examples are not shrunk: that takes minutes, and the model shows the expected values anyway.
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
async def test_users_receive_the_messages_that_the_model_expects(talk: Server, steps: Any) -> None:
    await agree(talk, steps)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(SHORT, max_examples=400)
@given(steps=STEPS)
async def test_users_receive_the_messages_that_the_model_expects_in_many_examples(talk: Server, steps: Any) -> None:
    await agree(talk, steps)
