"""The settings of the event store."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class EventSettings(SettingsGroup):
    """Where events are stored, and how many a stream retains."""

    events: str = Field(
        "sqlite:var/sluice.db",
        description="Where events are stored: sqlite:FILE for one server, redis://HOST:PORT/DB for several.",
    )
    session_events: Count = Field(
        10_000,
        description="Events that a stream retains for clients that reconnect. More tolerates longer gaps, less "
        "saves disk.",
    )
