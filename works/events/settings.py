"""The settings of the event store."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class EventSettings(SettingsGroup):
    events: str = Field("sqlite:var/sluice.db", description="where events are kept: sqlite:FILE, redis://HOST:PORT/DB")
    session_events: Count = Field(10_000, description="events a stream keeps for clients that come back")
