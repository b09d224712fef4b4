"""A job's story: a durable stream of the Broker, and what it amounts to so far.

One event of the stream is a group of what happened within a moment, told at one time: ``{"at": ms, "events": [...]}``.
``{"told": ...`` begins one by which somebody asks something of the job, ``{"ended": STATE, ...`` the last one.
"""

import json
import re
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

from works.events.broker import Event
from works.jobs import FINAL

# The id of the last event: whatever would follow it is fenced off.
END = "end"
ENDED = ("succeeded", "failed", "cancelled", "interrupted")
_ID = re.compile(r"[0-9a-f]{27}")
_STREAM = "jobs/of/"
# Readers whose marks are lists of jobs: a mark is durable, and goes with its stream.
RUNNING, ALL = "jobs/running", "jobs/all"
# Lines of the log that a snapshot has, and characters of them; characters beyond which it says only the states of its
# targets, and of these. A letter that is not of ASCII has six.
_LINES, _LONGEST_LOG = 200, 256 << 10
_LONGEST_STATES = 1 << 20
# Characters of the names that a story tells of those that a job is to do.
_LONGEST_ONLY = 64 << 10
# Names in a list of targets whose state is not known.
_MOST_NAMES = 100

T = TypeVar("T")


def new_id() -> str:
    """Later ids sort behind earlier ones."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(8)}"


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def stream_of(id: str) -> str:
    return _STREAM + id


def id_of(stream: str) -> str | None:
    """The job whose stream that is; None for another's."""
    id = stream.removeprefix(_STREAM)
    return id if stream.startswith(_STREAM) and is_id(id) else None


def started_by(user: str) -> str:
    """The reader whose marks are the user's jobs."""
    return f"jobs/user/{quote(user, safe='')}"


def starts_of(user: str) -> str:
    """The stream on which each ``client_id`` of the user becomes one job."""
    return f"jobs/starts/{quote(user, safe='')}"


def dumps(value: Any) -> str:
    """Raises TypeError or ValueError for what is no JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def group(events: Iterable[str], **first: str) -> str:
    """A stream's event of these, each JSON already. ``first`` is ``told`` or ``ended``."""
    head = dumps({**first, "at": round(time.time() * 1000)})
    return f'{head[:-1]},"events":[{",".join(events)}]}}'


def fitting(things: Iterable[T], most: int) -> Iterator[T]:
    """The first of these, as many as have so many characters as JSON."""
    for thing in things:
        most -= len(dumps(thing)) + 1
        if most < 0:
            return
        yield thing


def as_told(started: dict[str, Any]) -> dict[str, Any]:
    """The first event of a story, which has to fit into an outbox: many names in ``only`` are counted alone."""
    only = started["only"]
    if only is None:
        return {**started, "only_count": None}
    return {**started, "only": list(fitting(only, _LONGEST_ONLY)), "only_count": len(only)}


def written(id: str, event: Event) -> str:
    """A group as it goes over the wire; the log holds the rest of it as it is."""
    return f'{{"type":"events","id":"{id}","offset":{event.offset},{event.data[1:]}'


def is_end(event: Event) -> bool:
    return event.data.startswith('{"ended":')


def is_told(event: Event) -> bool:
    return event.data.startswith('{"told":')


@dataclass(slots=True)
class JobHistory:
    """What the events up to ``offset`` amount to. Times are milliseconds since 1970."""

    id: str
    offset: int = 0
    started: dict[str, Any] = field(default_factory=dict)
    at: int = 0
    ended_at: int | None = None
    state: str = "running"
    stage: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_LINES))
    approval: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    """The last event, once there is one."""
    _weight: int = 0

    @property
    def user(self) -> str:
        return str(self.started.get("user", ""))

    @property
    def job(self) -> str:
        return str(self.started.get("job", ""))

    @property
    def ended(self) -> bool:
        return self.end is not None

    def add(self, event: Event) -> None:
        """One more event of the stream; one that was added already changes nothing."""
        if event.offset <= self.offset:
            return
        self.offset = event.offset
        told = json.loads(event.data)
        for each in told["events"]:
            self._heed(each, told["at"])

    def _heed(self, event: dict[str, Any], at: int) -> None:
        kind = event["type"]
        if kind == "log":
            self.lines.append({"target": event["target"], "line": event["line"]})
        elif kind == "target":
            target = {name: value for name, value in event.items() if name not in ("type", "name")}
            before = self.targets.get(event["name"])
            self._weight += _weight(event["name"], target) - (_weight(event["name"], before) if before else 0)
            self.targets[event["name"]] = target
        elif kind == "progress":
            self.progress = {name: value for name, value in event.items() if name != "type"}
        elif kind == "stage":
            self.stage = event["name"]
            self.progress = {**self.progress, "eta_s": None} if self.progress else {}  # it was of the stage before
        elif kind == "started":
            self.started, self.at = event, at
        elif kind == "approval":
            self.approval = {name: value for name, value in event.items() if name != "type"}
        elif kind == "answered":
            self.approval = None
        elif kind == "cancelling":
            self.state = "cancelling"
        elif kind in ENDED:
            self.state, self.end, self.ended_at, self.approval = kind, event, at, None

    def counts(self) -> dict[str, int]:
        """How many targets are in each state."""
        return dict(Counter(target["state"] for target in self.targets.values()))

    def unfinished(self) -> list[str]:
        """Targets that were begun and have not ended."""
        return [name for name, target in self.targets.items() if target["state"] not in FINAL]

    def among(self, only: str) -> list[str]:
        """The targets to do again. ``unfinished``: all that are not done, whatever the reason."""
        if only == "unfinished":
            done = ("ok", "changed", "skipped")
            return [name for name, target in self.targets.items() if target["state"] not in done]
        return [name for name, target in self.targets.items() if target["state"] == only]

    def last(self, **more: Any) -> dict[str, Any]:
        """The members of a last event that say how far the job came, and of what it is not known."""
        unknown = self.unfinished()
        return {
            "result": None,
            **more,
            "stage": self.stage,
            "progress": self.progress,
            "targets": self.counts(),
            "unknown": unknown[:_MOST_NAMES],
            "unknown_count": len(unknown),
        }

    def summary(self) -> dict[str, Any]:
        """As a list of jobs has it."""
        end = self.end or {}
        return {
            "id": self.id,
            "job": self.job,
            "user": self.user,
            "state": self.state,
            "at": self.at,
            "ended_at": self.ended_at,
            "retry_of": self.started.get("retry_of"),
            "stage": end.get("stage", self.stage),
            "progress": end.get("progress", self.progress),
            "targets": end.get("targets", self.counts()),
            "waits_for_approval": self.approval is not None,
        }

    def snapshot(self) -> dict[str, Any]:
        """All there is to know, as of ``offset``. ``brief``: there is too much to say of the targets but states, and
        of these the first that there is room for."""
        brief = self._weight > _LONGEST_STATES
        bare = ((name, {"state": target["state"]}) for name, target in self.targets.items())
        states = dict(fitting(bare, _LONGEST_STATES)) if brief else self.targets
        log = list(fitting(reversed(self.lines), _LONGEST_LOG))[::-1]
        return {
            **self.summary(),
            "params": self.started.get("params"),
            "only": self.started.get("only"),
            "only_count": self.started.get("only_count"),
            "approval": self.approval,
            "end": self.end,
            "log": log,
            "states": states,
            "brief": brief,
        }


def _weight(name: str, target: dict[str, Any]) -> int:
    """How many characters it takes to tell of a target."""
    return len(dumps(name)) + len(dumps(target)) + 2
