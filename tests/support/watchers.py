"""A client of /ws/jobs for the tests of jobs."""

import secrets
from typing import Any

from tests.support.client import Client
from tests.support.jobs import KINDS
from tests.support.running import Server

__all__ = ["KINDS", "Watcher", "events_in"]


def events_in(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for group in groups for event in group["events"]]


class Watcher(Client):
    """A client of /ws/jobs. Use it as ``async with await Watcher.enter(server, name)``."""

    @classmethod
    async def enter(cls, server: Server, name: str = "alice", scope: str = "jobs", **options: Any) -> "Watcher":
        client = await cls.connect(server, path="/ws/jobs", token=server.token(name, scope), **options)
        assert isinstance(client, cls)
        return client

    async def start(self, job: str, client_id: str = "", **params: Any) -> str:
        client_id = client_id or secrets.token_hex(8)
        await self.send("start", job=job, params=params, client_id=client_id)
        answer = await self.wait_for("accepted", "error", client_id=client_id)
        assert answer["type"] == "accepted", answer
        return str(answer["id"])

    async def watch(self, id: str, **members: Any) -> dict[str, Any]:
        await self.send("watch", id=id, **members)
        answer = await self.wait_for("watching", "error", id=id)
        assert answer["type"] == "watching", answer
        return answer

    async def groups(self, id: str, most: int = 1_000_000) -> list[dict[str, Any]]:
        """Returns the next groups of events, at most ``most``, up to the group that ends the job."""
        found: list[dict[str, Any]] = []
        while len(found) < most:
            found.append(await self.wait_for("events", id=id))
            if "ended" in found[-1]:
                break
        return found

    async def until(self, id: str, type: str) -> dict[str, Any]:
        """Waits for a group that contains an event of this type, and returns the group."""
        while True:
            group = await self.wait_for("events", id=id)
            if any(event["type"] == type for event in group["events"]):
                return group

    async def refused(self, type: str, **members: Any) -> dict[str, Any]:
        """Sends a message and returns the error that answers it."""
        await self.send(type, **members)
        return await self.wait_for("error")
