"""Fixtures for the tests of the EventStore and of the WorkQueue."""

from collections.abc import Iterator

import pytest

from tests.support.dask import Clusters


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """Returns the name of a kind of EventStore, and starts Redis for the kind ``redis``."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return str(request.param)


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """Dask clusters for tests that leave them unchanged. Each cluster starts when a test first requests it."""
    with Clusters(tmp_path_factory.mktemp("clusters"), slice_timeout=100) as started:
        yield started


@pytest.fixture
def workers_of(request: pytest.FixtureRequest) -> "str | Clusters":
    """Returns the argument with which tests.support.queues.opened opens this kind of WorkQueue."""
    return request.getfixturevalue("clusters") if request.param == "dask" else request.param
