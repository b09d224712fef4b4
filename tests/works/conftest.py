"""Fixtures of the tests of the EventLog."""

import pytest


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of EventLog, with what it needs in ``tmp_path``."""
    if request.param == "redis":
        request.getfixturevalue("redis")
    return str(request.param)
