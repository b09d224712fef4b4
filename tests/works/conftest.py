"""Fixtures for the tests of the EventStore and of the WorkQueue."""

from collections.abc import Iterator

import pytest

from tests.support.dask import Clusters


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of EventStore, with its files in ``tmp_path``."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return str(request.param)


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    """Dask clusters, started on first use, for tests that leave them unchanged."""
    with Clusters(tmp_path_factory.mktemp("clusters"), slice_timeout=100) as started:
        yield started


@pytest.fixture
def workers_of(request: pytest.FixtureRequest) -> "str | Clusters":
    """The argument of tests.support.queues.opened for a kind of WorkQueue."""
    return request.getfixturevalue("clusters") if request.param == "dask" else request.param
