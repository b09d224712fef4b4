"""A job's history: the durable stream of its events, and the state that results from them.

An event of the stream is a group of events within a short time: ``{"at": ms, "events": [...]}``. The first
member of a group with a request to the job (a cancel or an answer) is ``_REQUEST``. The last group starts with
``{"ended": STATE, ...``.
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

# Id of the last event. Nothing can be appended after it.
END = "end"
ENDED = ("succeeded", "failed", "cancelled", "interrupted")
_ID = re.compile(r"[0-9a-f]{27}")
_STREAM = "jobs/of/"
# A name in stored events, which must not change.
_REQUEST = "told"  # codespell:ignore told
# Readers whose marks are lists of jobs. A mark is durable, and is deleted with its stream.
RUNNING, ALL = "jobs/running", "jobs/all"
# Maximum number of lines of the log in a snapshot, and their most characters as JSON, in which a non-ASCII letter takes
# six.
_LINES, _MAX_LOG_SIZE = 200, 256 << 10
# Maximum number of characters of the targets in a snapshot. Beyond it, the snapshot has only their states.
_MAX_STATES_SIZE = 1 << 20
# Maximum number of characters of the names in ``only`` of the first event.
_MAX_ONLY_SIZE = 64 << 10
# Maximum number of names in ``unknown`` of the last event.
_MAX_NAMES = 100

T = TypeVar("T")


def new_id() -> str:
    """Returns a new id. Later ids sort after earlier ones."""
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(8)}"


def is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text))


def job_stream(id: str) -> str:
    return _STREAM + id


def job_of_stream(stream: str) -> str | None:
    """Returns the id of the job to which this stream belongs, or None if it is not the stream of a job."""
    id = stream.removeprefix(_STREAM)
    return id if stream.startswith(_STREAM) and is_id(id) else None


def user_reader(user: str) -> str:
    """Returns the reader whose marks are the user's jobs."""
    return f"jobs/user/{quote(user, safe='')}"


def starts_stream(user: str) -> str:
    """Returns the stream that maps each ``client_id`` of the user to one job."""
    return f"jobs/starts/{quote(user, safe='')}"


def dumps(value: Any) -> str:
    """Returns compact JSON. Raises TypeError or ValueError for a value that is not JSON."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def group(events: Iterable[str], *, request: str = "", ended: str = "") -> str:
    """Returns a group of events, which are JSON texts already, as an event of the stream.

    ``request``: a request to the job (cancel, answer, stop). ``ended``: the final state, in the last group.
    """
    first = {_REQUEST: request} if request else {"ended": ended} if ended else {}
    head = dumps({**first, "at": round(time.time() * 1000)})
    return f'{head[:-1]},"events":[{",".join(events)}]}}'


def take_fitting(values: Iterable[T], size: int) -> Iterator[T]:
    """Yields the first values that have at most ``size`` characters as JSON."""
    for value in values:
        size -= len(dumps(value)) + 1
        if size < 0:
            return
        yield value


def shortened_start(started: dict[str, Any]) -> dict[str, Any]:
    """Returns the first event, which must fit into an outbox. ``only`` is cut; ``only_count`` is its full number."""
    only = started["only"]
    if only is None:
        return {**started, "only_count": None}
    return {**started, "only": list(take_fitting(only, _MAX_ONLY_SIZE)), "only_count": len(only)}


def as_message(id: str, event: Event) -> str:
    """Returns a group as JSON for the wire. The event has all members except type, id and offset."""
    return f'{{"type":"events","id":"{id}","offset":{event.offset},{event.data[1:]}'


def is_end(event: Event) -> bool:
    return event.data.startswith('{"ended":')


def is_request(event: Event) -> bool:
    return event.data.startswith(f'{{"{_REQUEST}":')


@dataclass(slots=True)
class JobHistory:
    """The state of a job after the events up to ``offset``. Times are in milliseconds since 1970."""

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
    """The last event of the job, or None while it is running."""
    _size: int = 0

    @property
    def user(self) -> str:
        return str(self.started.get("user", ""))

    @property
    def job(self) -> str:
        return str(self.started.get("job", ""))

    @property
    def ended(self) -> bool:
        return self.end is not None

    def add(self, group: Event) -> None:
        """Applies the next event of the stream. An event that was applied before changes nothing."""
        if group.offset <= self.offset:
            return
        self.offset = group.offset
        message = json.loads(group.data)
        for event in message["events"]:
            self._apply(event, message["at"])

    def _apply(self, event: dict[str, Any], at: int) -> None:
        kind = event["type"]
        if kind == "log":
            self.lines.append({"target": event["target"], "line": event["line"]})
        elif kind == "target":
            target = {name: value for name, value in event.items() if name not in ("type", "name")}
            before = self.targets.get(event["name"])
            self._size += _size(event["name"], target) - (_size(event["name"], before) if before else 0)
            self.targets[event["name"]] = target
        elif kind == "progress":
            self.progress = {name: value for name, value in event.items() if name != "type"}
        elif kind == "stage":
            self.stage = event["name"]
            self.progress = (
                {**self.progress, "eta_s": None} if self.progress else {}
            )  # the estimate belonged to the previous stage
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
        """Returns the number of targets in each state."""
        return dict(Counter(target["state"] for target in self.targets.values()))

    def unfinished(self) -> list[str]:
        """Returns the targets whose state is not final."""
        return [name for name, target in self.targets.items() if target["state"] not in FINAL]

    def targets_to_retry(self, only: str) -> list[str]:
        """Returns the targets in the state ``only``. With ``unfinished``, all targets that are not done for
        any reason.
        """
        if only == "unfinished":
            done = ("ok", "changed", "skipped")
            return [name for name, target in self.targets.items() if target["state"] not in done]
        return [name for name, target in self.targets.items() if target["state"] == only]

    def end_members(self, **more: Any) -> dict[str, Any]:
        """Returns the members of a last event: the progress of the job, and the targets whose state is unknown."""
        unknown = self.unfinished()
        return {
            "result": None,
            **more,
            "stage": self.stage,
            "progress": self.progress,
            "targets": self.counts(),
            "unknown": unknown[:_MAX_NAMES],
            "unknown_count": len(unknown),
        }

    def summary(self) -> dict[str, Any]:
        """Returns the entry of the job in a list of jobs."""
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
        """Returns the whole state at ``offset``. ``brief``: of the targets only as many states as fit are included."""
        brief = self._size > _MAX_STATES_SIZE
        bare = ((name, {"state": target["state"]}) for name, target in self.targets.items())
        states = dict(take_fitting(bare, _MAX_STATES_SIZE)) if brief else self.targets
        log = list(take_fitting(reversed(self.lines), _MAX_LOG_SIZE))[::-1]
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


def _size(name: str, target: dict[str, Any]) -> int:
    """Returns the characters of a target as JSON."""
    return len(dumps(name)) + len(dumps(target)) + 2
