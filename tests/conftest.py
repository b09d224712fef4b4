"""Fixtures: a shared server with default settings, a maker of servers with others, a Redis."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis import Redis, redis_in
from tests.running import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need nothing special; caps are raised so that tests do not meet each other's."""
    running = Server(tmp_path_factory.mktemp("server"), connections_per_user=100, connections_per_address=500)
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with settings of their own; they are stopped after the test."""
    started: list[Server] = []

    def starter(**settings: object) -> Server:
        started.append(Server(tmp_path, **settings))
        return started[-1]

    yield starter
    for running in started:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of this test's own, which keeps its data."""
    with redis_in(tmp_path) as running:
        yield running
