"""Helpers for the tests of rollouts: a context that records calls, and a short notation for plans."""

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

from tests.support.jobs import make_resources
from tests.support.running import Server, Start
from tests.support.sshd import Fleet
from works.imaging.task import Result, Task
from works.jobs import FINAL, JobFailed
from works.jobs.rollout.job import RolloutParams, rollout

# Long timeouts, because no test is about the speed of a host.
SETTINGS: dict[str, Any] = {"ssh_connect_timeout": 60, "rollout_kill_timeout": 30}


class Recorder:
    """A JobContext that records its calls. A question waits in ``questions`` until ``answers`` has an answer."""

    def __init__(self, settings: dict[str, Any], folder: Path, only: frozenset[str] | None = None) -> None:
        self.id, self.user, self.only = "job-1", "alice", only
        # A rollout uses none of the three stores.
        self.resources = make_resources(*cast(tuple[Any, Any, Any], (None, None, None)), **settings)
        self.stages: list[str] = []
        self.steps: list[tuple[int, int, int | None]] = []
        self.lines: list[tuple[str, str]] = []
        self.reports: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.questions: list[dict[str, Any]] = []
        self.answers: asyncio.Queue[bool] = asyncio.Queue()
        self.result: dict[str, Any] = {}
        self.failure: JobFailed | None = None
        self._folder = folder

    async def stage(self, name: str) -> None:
        self.stages.append(name)

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        self.steps.append((done, failed, total))

    async def log(self, line: str, target: str = "") -> None:
        self.lines.append((target, line))

    async def target(self, name: str, state: str, **more: Any) -> None:
        self.reports[name].append({"state": state, **more})

    async def run(self, task: Task) -> Result:
        raise AssertionError("a rollout must not process pictures")

    async def approve(self, question: str, **more: Any) -> str:
        self.questions.append({"question": question, **more})
        if not await self.answers.get():
            raise JobFailed("refused", "bob has refused")
        return "bob"

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        raise AssertionError("a rollout must not keep files")

    def folder(self) -> Path:
        return self._folder

    def state(self, name: str) -> str:
        return str(self.last(name)["state"])

    def states(self) -> dict[str, str]:
        return {name: self.state(name) for name in self.reports}

    def last(self, name: str) -> dict[str, Any]:
        """Returns the final state of a host.

        Also checks that the host has only one final state. Before it, the host was only reported as not started and as
        running.
        """
        first, *rest = self.reports[name]
        assert first == {"state": "not_started"} or first["state"] == "skipped"
        ends = [each for each in rest or [first] if each["state"] in FINAL]
        assert len(ends) == 1, self.reports[name]
        assert (rest or [first])[-1] == ends[0]
        return ends[0]

    def lines_of(self, name: str) -> list[str]:
        return [line for target, line in self.lines if target == name]


def prepare(fleet: Fleet, text: str, only: frozenset[str] | None = None, **settings: Any) -> Recorder:
    """Returns a Recorder for a file of plans; ``text`` is the part of the file below ``plans:``."""
    path = fleet.folder / "plans.yaml"
    path.write_text(fleet.yaml() + "plans:\n" + "".join(f"  {line}\n" for line in text.strip("\n").splitlines()))
    known = {"plans": str(path), "ssh_known_hosts": str(fleet.known_hosts), "ssh_key": str(fleet.key)}
    return Recorder(known | SETTINGS | settings, fleet.folder, only)


def serve_rollouts(start: Start, fleet: Fleet, text: str) -> Server:
    """Starts a server with this plan by calling ``start``."""
    settings = prepare(fleet, text).resources.rollout
    names = ("plans", "ssh_known_hosts", "ssh_key", "ssh_connect_timeout", "rollout_kill_timeout")
    return start(**{name: getattr(settings, name) for name in names} | {"job_cancel_timeout": 90})


async def carry_out(context: Recorder, **params: Any) -> Recorder:
    """Runs a rollout to its end, successful or not. The outcome is in ``result`` and ``failure`` of the context."""
    try:
        context.result = await rollout(context, RolloutParams(**{"plan": "update"} | params)) or {}
    except JobFailed as error:
        context.failure, context.result = error, error.result or {}
    return context


def plan(*steps: str, **members: Any) -> str:
    """Returns a plan ``update`` with one stage ``install`` on all hosts.

    ``top`` and ``stage`` contain further members of the plan and of the stage.
    """
    top, stage = members.get("top", ""), members.get("stage", "")
    lines = ["update:", "  hosts: [all]", *(f"  {line}" for line in top.splitlines()), "  stages:", "  - name: install"]
    lines += [f"    {line}" for line in stage.splitlines()]
    return "\n".join([*lines, "    steps:", *(f"    - {step}" for step in steps)])
