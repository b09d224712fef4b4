"""Children of a forkserver answer over their channels, and end when they are killed or when the forkserver is closed.

The tests use real processes and sockets. They were seen to fail with each of these faults in the code: a kill with the
serial number of another child; the server's secret in the environment of the children; the end of a long request not
sent; the end of a channel not reported; children that remain after the close.
"""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.running import alive, until
from works.processes.channel import Channel
from works.processes.forkserver import Forkserver

CONFIGURATION = "redis://:configured-password@127.0.0.1"


@pytest.fixture
def forkserver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forkserver]:
    monkeypatch.setenv("SLUICE_JWT_SECRET", "a secret of the server")
    forkserver = Forkserver(["argument"], {"ADDED": "yes"}, "tests.support.answering_child", CONFIGURATION.encode())
    yield forkserver
    forkserver.close()


async def ask(channel: Channel, payload: bytes = b"", **members: Any) -> dict[str, Any]:
    """Sends a request to the child and returns what the child reports about itself. The child must also have sent the
    members and the payload back.
    """
    header, echoed = await channel.ask(json.dumps(members).encode(), payload)
    answer: dict[str, Any] = json.loads(header)
    assert {name: answer[name] for name in members} == members
    assert echoed == payload
    return answer


@pytest.mark.parametrize("size", [0, 1, 1 << 16, 5_000_000])
async def test_requests_of_any_size_are_answered_in_order(forkserver: Forkserver, size: int) -> None:
    channel = Channel(forkserver.fork()[1])
    payload = os.urandom(size)
    pids = {(await ask(channel, payload, number=number))["pid"] for number in range(3)}
    assert len(pids) == 1
    channel.close()


async def test_killing_a_child_fails_its_request_and_affects_no_other_child(forkserver: Forkserver) -> None:
    (first, end), (_, other_end) = forkserver.fork(), forkserver.fork()
    channel, other = Channel(end), Channel(other_end)
    pids = [(await ask(each))["pid"] for each in (channel, other)]
    killed = psutil.Process(pids[0])
    killed.suspend()  # The child receives the request and does not answer.
    request = asyncio.create_task(channel.ask(b"{}", b""))
    await asyncio.sleep(0)  # The request is sent during this turn of the event loop.
    forkserver.kill(first)
    with pytest.raises(ConnectionResetError):
        await request
    assert (await ask(other))["pid"] == pids[1]
    await until(lambda: not alive(killed))  # The socket of the child closes a moment before the process ends.
    forkserver.fork()[1].close()  # A forkserver collects the exit status of ended children at its next request.
    await until(lambda: not killed.is_running())
    for each in (channel, other):
        each.close()


async def test_a_child_gets_its_configuration_and_no_secrets_of_the_server(forkserver: Forkserver) -> None:
    channel = Channel(forkserver.fork()[1])
    answer = await ask(channel)
    assert answer["configuration"] == CONFIGURATION
    assert answer["environment"]["ADDED"] == "yes"
    assert "SLUICE_JWT_SECRET" not in answer["environment"]
    for pid in (answer["pid"], forkserver.pid):
        assert CONFIGURATION.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    channel.close()


async def test_a_forkserver_that_died_is_started_again_by_the_next_fork(forkserver: Forkserver) -> None:
    channel = Channel(forkserver.fork()[1])
    await ask(channel)
    before = forkserver.pid
    assert before
    os.kill(before, signal.SIGKILL)
    await until(lambda: psutil.Process(before).status() == psutil.STATUS_ZOMBIE)
    again = Channel(forkserver.fork()[1])
    await ask(again)
    assert forkserver.pid != before
    for each in (channel, again):
        each.close()


async def test_all_children_end_with_the_forkserver(forkserver: Forkserver) -> None:
    channels = [Channel(forkserver.fork()[1]) for _ in range(3)]
    children = [psutil.Process((await ask(channel))["pid"]) for channel in channels]
    children[0].suspend()
    forkserver.close()
    await until(lambda: not any(map(alive, children)))
    for channel in channels:
        channel.close()
