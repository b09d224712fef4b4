"""All tests of the console use Chromium."""

import pytest


@pytest.fixture(autouse=True)
def _chromium(chromium: None) -> None:
    """Ends the browser after the last test."""
