"""The registry of jobs: work that takes minutes or hours. Its history outlives the page that started it.

A job is an ``async def`` with the decorator ``@job`` in a file of its own. It takes a JobContext and its parameters and
returns its result. Its name is the name on the wire, the pydantic model of its parameters is the schema of the form,
and its docstring is the help text. `load` finds the kinds in this package. The setting ``job_modules`` names modules
with further kinds.
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

# Final states of a target. In any other state (such as running, or waiting for a restart) it has not ended.
FINAL = frozenset({"ok", "changed", "failed", "unreachable", "skipped", "not_started", "cancelled"})
# Packages here that define a kind of job have a module with this name.
_MODULE = "job"


class JobContext(Protocol):
    """The argument of a job's function: methods that report its progress, and the resources that it may use.

    A cancel raises CancelledError in the function, which then has ``job_cancel_timeout`` seconds to clean up. When the
    job has ended, every method raises CancelledError.
    """

    id: str
    user: str
    """Name of the user who has started the job."""
    only: frozenset[str] | None
    """Names of the targets of a retry. None for a job with all targets."""
    resources: "JobResources"

    async def stage(self, name: str) -> None:
        """Starts a new stage. ``name`` describes it in a few words."""

    async def progress(self, done: int, failed: int = 0, total: int | None = None) -> None:
        """Reports the progress: ``done`` of ``total``, of which ``failed`` failed. It may be called often; only some
        calls are written.
        """

    async def log(self, line: str, target: str = "") -> None:
        """Adds one or several lines to the log. Control characters are removed and long lines are cut.

        Lines that follow quickly are written together. Beyond ``job_log_bytes`` lines are only counted.
        """

    async def target(self, name: str, state: str, **more: Any) -> None:
        """Sets the state of one target. ``more`` are JSON values, for example its output. The last state counts.

        Set ``not_started`` for every target at the start. Then a retry knows which targets were never started. FINAL
        has the final states. Raises JobFailed too_large beyond ``job_targets`` targets.
        """

    async def run(self, task: Task) -> Result:
        """Processes a task in the queue when no other session has slices waiting. At most ``job_tasks`` run at the same
        time.

        ``session`` and ``background`` of the task are set here. ``id`` must be unique among running tasks. Waits while
        the queue is full. Raises WorkError when the task fails.
        """

    async def approve(self, question: str, **more: Any) -> str:
        """Waits until a person approves. Returns the name of that user. Raises JobFailed ``refused`` or ``timeout``."""

    async def keep(self, file: Path, name: str) -> dict[str, Any]:
        """Stores a result file and returns its ``name``, ``url`` and ``bytes``. The file may be moved.

        Raises:
            OSError: the store is full or unavailable.
            WorkError: the suffix of ``name`` is not supported.
        """

    def folder(self) -> Path:
        """Returns a folder for temporary files of this job. It is deleted at the end of the job."""


class JobFailed(Exception):
    """Ends a job as ``failed``, with a code for programs, a message for a person, and a partial result."""

    def __init__(self, code: str, message: str, result: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.result = code, message, result


class BadParams(WorkError):
    """Invalid parameters. ``errors`` names each wrong field."""

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
    """One kind of job. ``scope``: the scope that a token needs to start it."""

    name: str
    function: Function
    params: type[BaseModel]
    help: str
    scope: Scope
    schema: dict[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", self.params.model_json_schema())

    def describe(self) -> dict[str, Any]:
        """Returns the help text and the JSON Schema of the parameters, as in the message ``hello``."""
        return {"help": self.help, "scope": self.scope, "params": self.schema}

    def check(self, params: dict[str, Any]) -> BaseModel:
        """Returns the parameters, with defaults and declared types. Raises BadParams."""
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
    """Registers ``async def name(context: JobContext, params: Model) -> dict[str, Any] | None``.

    Raises TypeError when the function has another form, ValueError when the name is taken.
    """

    def register(function: F) -> F:
        name = function.__name__
        _, params = inspect.signature(function, eval_str=True).parameters.values()
        if not (isinstance(params.annotation, type) and issubclass(params.annotation, BaseModel)):
            raise TypeError(f"job {name}: its second parameter must have a pydantic model as annotation")
        if name in _registry and _registry[name].function.__module__ != function.__module__:
            raise ValueError(f"two jobs have the name {name!r}")
        help = inspect.cleandoc(function.__doc__ or "").replace("\n", " ")
        _registry[name] = Job(name, function, params.annotation, help, scope)
        return function

    return register(function) if function else register


def offered(scopes: frozenset[str]) -> dict[str, dict[str, Any]]:
    """Returns name -> description of every kind of job that a token with these scopes may start."""
    return {name: kind.describe() for name, kind in sorted(_registry.items()) if {kind.scope, "admin"} & scopes}


def find(name: str) -> Job:
    """Returns the kind of job with this name. Raises WorkError not_found."""
    try:
        return _registry[name]
    except KeyError:
        known = ", ".join(sorted(_registry)) or "none"
        raise WorkError("not_found", f"job: {name[:40]!r} is unknown; use {known}") from None


def load(modules: Sequence[str] = ()) -> None:
    """Imports the kinds in this package and those of ``modules``. Raises ValueError for a module that cannot be
    imported.

    Importing this package does not import them, because helper processes of jobs need none of them.
    """
    for found in pkgutil.iter_modules(__path__):
        if found.ispkg:
            importlib.import_module(f"{__name__}.{found.name}.{_MODULE}")
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(f"job_modules: {name} cannot be imported: {error!r}") from error
