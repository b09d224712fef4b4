"""URLs that open an EventStore, and the errors of URLs that do not."""

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
async def test_what_is_said_of_a_url_is_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis?://\*\*\*@localhost") as caught:
        open_events(EventSettings(events=url), BackgroundTasks())
    assert "secret" not in str(caught.value)


def test_without_its_package_redis_is_refused_with_a_hint_and_sqlite_is_not() -> None:
    script = """
import sys
sys.modules["redis"] = None  # as when it is not installed
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
