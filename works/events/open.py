"""Opens the event store of a URL."""

import re
from pathlib import Path

from works.background import BackgroundTasks
from works.events.settings import EventSettings
from works.events.sqlite.store import SqliteEventStore
from works.events.store import EventStore

_KNOWN = "sqlite:FILE, redis://HOST:PORT/NUMBER, rediss://HOST:PORT/NUMBER and unix://SOCKET?db=NUMBER"


def open_events(settings: EventSettings, background: BackgroundTasks) -> EventStore:
    """Opens the event store. To be called on the running loop. Tasks of the store run in `background`.

    Raises:
        ValueError: the URL has an unknown scheme, or a package is not installed.
        OSError: the file cannot be used.
    """
    url, keep = settings.events, settings.session_events
    scheme, _, path = url.partition(":")
    if scheme == "sqlite" and path:
        return SqliteEventStore(Path(path.removeprefix("//")), keep, background)
    shown = re.sub(r"//[^/]*@", "//***@", url)  # the URL without its password
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
