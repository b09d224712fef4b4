"""The registry of jobs: work of minutes or hours whose history outlives the page that started it.

A job is one ``async def`` under ``@job`` in one file: a JobContext and its parameters in, its result out. Its name is
the wire name, the pydantic model of its parameters the schema of the form, its docstring the help. `load`
finds those of the folders here by itself; modules from elsewhere are named by the setting ``job_modules``.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, overload

from pydantic import BaseModel, ValidationError

from works.errors import WorkError
from works.imaging.task import Result, Task

if TYPE_CHECKING:
    from works.jobs.resources import JobResources

# How a target may have ended. Any other state (running, waiting for a restart) is one in which it has not ended.
FINAL = frozenset({"ok", "changed", "failed", "unreachable", "skipped", "not_started", "cancelled"})
# Folders here that hold a kind have this module in them.
_MODULE = "job"


class JobContext(Protocol):
    """What a job's function gets: methods that report its progress, and the resources that it may use.

    A cancel raises CancelledError in the function, which then has ``job_cancel_timeout`` seconds to clean up.
    Once the job has ended, every method raises CancelledError.
    """

    id: str
    user: str
    """Who started it."""
    only: frozenset[str] | None
    """The targets to do, when this job is another one's retry; None: all of them."""
    resources: "JobResources"

    async def stage(self, name: str) -> None:
        """What is being done from now on, in a few words."""

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        """How many are done (those that failed among them), of how many. Told often, it is written now and then."""

    async def log(self, line: str, target: str = "") -> None:
        """A line, or several; controls are taken out, long lines cut. Beyond ``job_log_bytes`` lines are only counted.

        Lines that come quickly are written together.
        """

    async def target(self, name: str, state: str, **more: Any) -> None:
        """The state of one target; ``more`` are JSON values, output for instance. The last one counts.

        Say ``not_started`` of every target at the beginning: then a retry knows those that never were. The states in
        which a target has ended are those of FINAL. Raises JobFailed too_large beyond ``job_targets`` targets.
        """

    async def run(self, task: Task) -> Result:
        """Has a task worked by the queue, when nobody's slices wait; of a job ``job_tasks`` at most at once.

        ``session`` and ``background`` of the task are set, ``id`` must be another for each task under way. Waits
        while the queue is full. Raises WorkError for a task that failed.
        """

    async def approve(self, question: str, **more: Any) -> str:
        """Waits until a person says yes; who it was. Raises JobFailed ``refused`` or ``timeout``."""

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        """Puts a result file into the media store: its ``name``, ``url`` and ``bytes``. The file may be moved.

        Raises OSError for a store that is full, WorkError for a suffix (of ``name``) that is not kept there.
        """

    def folder(self) -> Path:
        """A folder of this job's own, there until it has ended."""


class JobFailed(Exception):
    """Ends a job as ``failed``: a code for programs, a message for a person, and what there is of a result."""

    def __init__(self, code: str, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.result = code, message, result


class BadParams(WorkError):
    """Parameters off the schema; ``errors`` names each field that is wrong, all of them at once."""

    def __init__(self, job: str, errors: list[dict[str, str]]) -> None:
        shown = "; ".join(f"{error['field']}: {error['message']}" for error in errors[:5])
        super().__init__("bad_options", f"{job}: {shown[:500]}")
        self.errors = errors

    def as_dict(self) -> dict[str, object]:
        return {**super().as_dict(), "errors": self.errors}

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.message.partition(":")[0], self.errors)


Function = Callable[[JobContext, Any], Awaitable[dict[str, Any] | None]]
F = TypeVar("F", bound=Callable[..., Awaitable[dict[str, Any] | None]])
Scope = Literal["jobs", "admin"]


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of job. ``scope``: what a token must have to start one."""

    name: str
    function: Function
    params: type[BaseModel]
    help: str
    scope: Scope
    schema: dict[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", self.params.model_json_schema())

    def describe(self) -> dict[str, Any]:
        """Help and JSON Schema of the parameters, as ``hello`` carries them."""
        return {"help": self.help, "scope": self.scope, "params": self.schema}

    def check(self, params: dict[str, Any]) -> BaseModel:
        """The parameters complete and typed. Raises BadParams."""
        try:
            return self.params.model_validate(params)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_input=False)[:100]
            raise BadParams(self.name, [_by_field(fault["loc"], fault["msg"]) for fault in faults]) from None


def _by_field(where: Sequence[int | str], message: str) -> dict[str, str]:
    return {"field": ".".join(map(str, where))[:200], "message": message.removeprefix("Value error, ")[:500]}


_registry: dict[str, Job] = {}


@overload
def job(function: F, /) -> F: ...


@overload
def job(*, scope: Scope = "jobs") -> Callable[[F], F]: ...


def job(function: F | None = None, /, *, scope: Scope = "jobs") -> F | Callable[[F], F]:
    """Registers ``async def name(context: JobContext, params: Model) -> dict[str, Any] | None``."""

    def register(function: F) -> F:
        name = function.__name__
        _, params = inspect.signature(function, eval_str=True).parameters.values()
        if not (isinstance(params.annotation, type) and issubclass(params.annotation, BaseModel)):
            raise TypeError(f"job {name}: the second parameter must be annotated with a pydantic model")
        if name in _registry and _registry[name].function.__module__ != function.__module__:
            raise ValueError(f"two jobs are called {name!r}")
        help = inspect.cleandoc(function.__doc__ or "").replace("\n", " ")
        _registry[name] = Job(name, function, params.annotation, help, scope)
        return function

    return register(function) if function else register


def offered(scopes: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Name -> description of every kind of job that a token with these scopes may start."""
    return {name: kind.describe() for name, kind in sorted(_registry.items()) if {kind.scope, "admin"} & scopes}


def find(name: str) -> Job:
    """Raises WorkError not_found."""
    try:
        return _registry[name]
    except KeyError:
        known = ", ".join(sorted(_registry)) or "none"
        raise WorkError("not_found", f"job: there is no {name[:40]!r}; there are {known}") from None


def load(modules: Sequence[str] = ()) -> None:
    """Imports our own kinds and those of ``modules``. Raises ValueError for a module that cannot be imported.

    Not done by the import of this package: processes that work for a job need none of them.
    """
    for found in pkgutil.iter_modules(__path__):
        if found.ispkg:
            importlib.import_module(f"{__name__}.{found.name}.{_MODULE}")
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(f"job_modules: {name} cannot be imported: {error!r}") from error
