"""A plan: the steps on hosts, in stages and batches, with deadlines and a failure budget.

Values reach commands as shell variables (``$version``). They are set from quoted text before the command and never
inserted into its text. Percentages are of the hosts of a stage or of the rollout.
"""

import math
import re
import shlex
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

_MOST_VALUE = 200
_DAY = 24 * 3600.0


def _percentage(text: str) -> str:
    if not re.fullmatch(r"(100|[1-9]?[0-9])%", text):
        raise ValueError("must be a whole number of hosts, or a percentage in quotes: '10%'")
    return text


def _printable(text: str) -> str:
    if not text.strip() or any(ord(sign) < 32 and sign not in "\n\t" for sign in text):
        raise ValueError("must be a command: no empty text, no control characters besides line breaks and tabs")
    return text


Percentage = Annotated[str, AfterValidator(_percentage)]
Command = Annotated[str, Field(max_length=20_000), AfterValidator(_printable)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
# Lower case only, so that PATH, HOME and other variables of the shell cannot be set.
Variable = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,49}$")]
Value = Annotated[str, Field(max_length=_MOST_VALUE, pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$")] | bool | int
Seconds = Annotated[float, Field(gt=0, le=_DAY)]
# Variables that describe the host, in addition to the values.
RESERVED = frozenset({"host", "address"})


class Part(BaseModel):
    """Strict, because in YAML ``1.10`` is the number 1.1 and not a version."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Param(Part):
    """A value that the user of a rollout may choose, and its allowed values."""

    type: Literal["string", "integer", "boolean"] = "string"
    choices: list[Annotated[str, Field(max_length=_MOST_VALUE)]] | None = Field(None, min_length=1)
    pattern: str | None = None
    minimum: int | None = None
    maximum: int | None = None
    default: str | bool | int | None = None
    help: str = ""

    @model_validator(mode="after")
    def _bounded(self) -> "Param":
        if self.type == "string" and (self.choices is None) == (self.pattern is None):
            raise ValueError("a string needs either choices or a pattern for its values")
        if self.type == "integer" and (self.minimum is None or self.maximum is None):
            raise ValueError("an integer needs minimum and maximum")
        try:
            self._validator()
        except SchemaError:
            raise ValueError("pattern: not a regular expression (look-around is not supported)") from None
        if self.default is not None:
            self.text(self.default)
        return self

    def _validator(self) -> SchemaValidator:
        if self.type == "boolean":
            return SchemaValidator(core_schema.bool_schema(strict=True))
        if self.type == "integer":
            return SchemaValidator(core_schema.int_schema(ge=self.minimum, le=self.maximum, strict=True))
        if self.choices is not None:
            return SchemaValidator(core_schema.literal_schema(list(self.choices)))
        # This engine takes linear time for any input. \A and \z do not accept a final line break.
        pattern = rf"\A(?:{self.pattern})\z"
        return SchemaValidator(core_schema.str_schema(pattern=pattern, max_length=_MOST_VALUE, strict=True))

    def text(self, value: object) -> str:
        """Returns the value as text for commands. Raises ValueError when it is not allowed."""
        try:
            found = self._validator().validate_python(value)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            bad_pattern = fault["type"] == "string_pattern_mismatch"
            raise ValueError(f"must match {self.pattern}" if bad_pattern else fault["msg"]) from None
        if "\0" in str(found):
            raise ValueError("must not have a zero byte")
        return as_text(found)


class ChangedWhen(Part):
    """``exit``: the command ends with this status. ``output``: a line of its output contains this text."""

    exit: int | None = Field(None, ge=1, le=255)
    output: str | None = Field(None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one(self) -> "ChangedWhen":
        if (self.exit is None) == (self.output is None):
            raise ValueError("set one of exit and output")
        return self


class Step(Part):
    """A command. The exit status of ``check`` says whether it is needed: 0 no, 1 yes, other values are a failure."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    command: Command
    check: Command | None = None
    changed_when: Literal["always", "never"] | ChangedWhen = "always"
    timeout: Seconds = 60

    def changes(self, status: int, printed: bool) -> bool | None:
        """Returns whether the command has changed something, or None when it has failed. ``printed``: the marker was
        found.
        """
        when = self.changed_when
        if isinstance(when, ChangedWhen):
            if when.exit is not None and status == when.exit:
                return True
            return None if status else when.output is not None and printed
        return None if status else when == "always"

    @property
    def marker(self) -> str | None:
        return self.changed_when.output if isinstance(self.changed_when, ChangedWhen) else None


class HealthCheck(Part):
    """A check after each batch, on the hosts of the batch or on others."""

    command: Command
    hosts: list[str] | None = Field(None, min_length=1)
    attempts: int = Field(3, ge=1, le=1000)
    pause: Annotated[float, Field(ge=0, le=3600)] = 5
    timeout: Seconds = 30


class Rollback(Part):
    """Runs on hosts where the stage failed or, when the rollout has stopped, on all hosts where the stage
    was started.
    """

    hosts: Literal["failed", "all"] = "failed"
    steps: list[Step] = Field(min_length=1)


class Stage(Part):
    name: Annotated[str, Field(min_length=1, max_length=100)]
    hosts: list[str] | None = Field(None, min_length=1)
    """Hosts and groups. By default those of the plan."""
    batches: list[Annotated[int, Field(ge=1)] | Percentage] = Field(["100%"], min_length=1)
    """Sizes of the batches. The last one repeats until all hosts are done."""
    forks: int = Field(10, ge=1)
    host_timeout: Seconds = 600
    approve: Literal["stage", "batches", "all"] | None = None
    """When to ask for an approval: before the first batch, before later ones, or before each."""
    steps: list[Step] = Field(min_length=1)
    health: HealthCheck | None = None
    rollback: Rollback | None = None

    def sizes(self, hosts: int) -> list[int]:
        """Returns the sizes of the batches for this number of hosts."""
        sizes: list[int] = []
        while sum(sizes) < hosts:
            size = self.batches[min(len(sizes), len(self.batches) - 1)]
            sizes.append(min(max(share(size, hosts), 1), hosts - sum(sizes)))
        return sizes

    def needs_approval(self, batch: int) -> bool:
        return self.approve == "all" or self.approve == ("batches" if batch else "stage")


class Plan(Part):
    help: str = ""
    hosts: list[str] = Field(min_length=1)
    params: dict[Variable, Param] = Field({})
    vars: dict[Variable, Value] = Field({})
    deadline: Annotated[float, Field(gt=0)] = 3600
    """In seconds. The time that the rollout waits for a person is not counted."""
    budget: Annotated[int, Field(ge=0)] | Percentage = 0
    """Number or percentage of hosts that may fail before the rollout stops."""
    stages: list[Stage] = Field(min_length=1)

    def values(self, given: dict[str, Any]) -> dict[str, str]:
        """Returns the text of every parameter. Raises ValueError with a line for each wrong one."""
        faults = [
            f"{name}: the plan has no such parameter; it has {', '.join(self.params) or 'none'}"
            for name in given
            if name not in self.params
        ]
        texts = {}
        for name, param in self.params.items():
            value = given.get(name, param.default)
            try:
                if value is None:
                    raise ValueError("must be given")
                texts[name] = param.text(value)
            except ValueError as error:
                faults.append(f"{name}: {error}")
        if faults:
            raise ValueError("\n".join(faults))
        return texts


def share(part: int | str, whole: int) -> int:
    """Returns this number, or this percentage of the whole, rounded down."""
    return part if isinstance(part, int) else math.floor(whole * int(part.removesuffix("%")) / 100)


def as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def script(command: str, values: dict[str, str]) -> str:
    """Returns the command for ``sh -c``, after its variables. An unset variable or a failing line ends it."""
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join([*lines, "set -eu", command])
