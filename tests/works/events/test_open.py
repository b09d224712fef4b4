"""Which URLs open an EventStore, and the error texts for the URLs that do not."""

import subprocess
import sys

import pytest

from tests.support.running import ROOT
from works.background import BackgroundTasks
from works.events.open import open_events
from works.events.settings import EventSettings


@pytest.mark.parametrize("url", ["", "sqlite", "sqlite:", "redis:", "rediss://", "redi://localhost", "/var/events.db"])
async def test_a_url_of_an_unknown_kind_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="unknown; use sqlite:FILE, redis://"):
        open_events(EventSettings(events=url), BackgroundTasks())


@pytest.mark.parametrize("url", ["redi://user:secret@localhost", "redis://user:secret@localhost:port/0"])
async def test_the_error_for_a_url_does_not_contain_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis?://\*\*\*@localhost") as raised:
        open_events(EventSettings(events=url), BackgroundTasks())
    assert "secret" not in str(raised.value)


def test_without_its_package_redis_is_refused_with_a_hint() -> None:
    script = """
import sys
sys.modules["redis"] = None  # an import then fails as if the package were not installed
from works.background import BackgroundTasks
from works.events.open import open_events
from works.events.settings import EventSettings
try:
    open_events(EventSettings(events="redis://localhost/0"), BackgroundTasks())
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "make extras" in done.stdout
