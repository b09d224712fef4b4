"""Opens the EventStore of a URL."""

import re
from pathlib import Path

from works.background import BackgroundTasks
from works.events.settings import EventSettings
from works.events.sqlite.store import SqliteEventStore
from works.events.store import EventStore

_KNOWN = "sqlite:FILE, redis://HOST:PORT/NUMBER, rediss://HOST:PORT/NUMBER and unix://SOCKET?db=NUMBER"


def open_events(settings: EventSettings, background: BackgroundTasks) -> EventStore:
    """To be called on the running loop. What the store does beside it is among the tasks of `background`.

    Raises ValueError for an unknown scheme or a package that is not installed, OSError for a file that cannot be used.
    """
    url, keep = settings.events, settings.session_events
    scheme, _, path = url.partition(":")
    if scheme == "sqlite" and path:
        return SqliteEventStore(Path(path.removeprefix("//")), keep, background)
    shown = re.sub(r"//[^/]*@", "//***@", url)  # without the password
    if scheme not in ("redis", "rediss", "unix") or not path.removeprefix("//"):
        raise ValueError(f"events {shown!r}: unknown; use {_KNOWN}")
    try:
        from works.events.redis.store import RedisEventStore
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] != "redis":
            raise
        raise ValueError(f"events {shown!r}: Redis needs an extra package. Install it with: make extras") from None
    try:
        return RedisEventStore(url, keep, background=background)
    except ValueError as error:
        raise ValueError(f"events {shown!r}: {error}") from None
