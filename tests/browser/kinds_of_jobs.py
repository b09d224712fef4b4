"""Kinds of jobs for the tests of the Jobs view. Some wait for a file, which a test creates when they should
continue.
"""

import asyncio
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from works.jobs import JobContext, job


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Gate(Params):
    gate: str = Field("", description="a file that is waited for; empty: nothing is")


async def passed(params: Gate) -> None:
    while params.gate and not Path(params.gate).exists():  # noqa: ASYNC110, the test is another process
        await asyncio.sleep(0.01)


class Telling(Gate):
    before: int = Field(60, ge=0)
    after: int = Field(60, ge=0)


@job
async def telling_on(context: JobContext, params: Telling) -> dict[str, Any]:
    """Logs some lines, waits, and logs more."""
    total = params.before + params.after
    await context.target("one", "running")
    await context.stage("before")
    for number in range(1, total + 1):
        if number == params.before + 1:
            await context.stage("waiting")
            await passed(params)
            await context.stage("after")
        await context.log(f"line {number}", "one" if number % 2 else "two")
        await context.progress(number, 0, total)
    await context.target("one", "ok")
    return {"lines": total}


class Fleet(Gate):
    hosts: int = Field(200, ge=1)


@job
async def fleet(context: JobContext, params: Fleet) -> dict[str, Any]:
    """Reports many targets that end in all possible states."""
    names = [f"web{number}.example.org" for number in range(1, params.hosts + 1)]
    names = [name for name in names if context.only is None or name in context.only]
    for name in names:
        await context.target(name, "not_started")
    await context.stage("update")
    await context.progress(0, 0, len(names))
    states = ("ok", "changed", "changed", "ok", "changed", "ok", "ok", "changed", "failed", "unreachable")
    failed = 0
    for number, name in enumerate(names, 1):
        if number == len(names) // 2 + 1:
            await context.target(name, "running", stage="update")
            await passed(params)
        state = "ok" if context.only else states[number % 10]
        failed += state in ("failed", "unreachable")
        steps = [{"step": "fetch", "state": "ok", "exit": 0}, {"step": "unpack", "state": state, "exit": failed}]
        more: dict[str, Any] = {"output": f"Unpacking on {name} ...\ndone", "steps": steps}
        if state == "failed":
            more |= {"code": "step", "reason": "unpack: exit status 1", "exit": 1}
        await context.target(name, state, **more)
        await context.log(f"Unpacking sluice (1.4) on {name} ...", name)
        await context.progress(number, failed, len(names))
    return {"plan": "update", "states": {"failed": failed}}


class Size(Params):
    width: int = Field(ge=1, le=5000)
    height: int = Field(ge=1, le=5000)


class Form(Params):
    title: str = Field(min_length=3, description="what it is to be called")
    copies: int = Field(1, ge=1, le=10)
    ratio: float = Field(0.5, gt=0)
    colour: Literal["red", "green", "blue"] = "green"
    loud: bool = True
    names: list[str] = Field(["a", "b"], max_length=3)
    numbers: list[int] = []
    limit: int | None = Field(None, ge=0)
    size: Size = Size(width=10, height=20)
    values: dict[str, bool | int | str] = {}

    @model_validator(mode="after")
    def _fit(self) -> "Form":
        if self.title == "wrong":
            raise ValueError("this title and these copies do not go together")
        return self


@job
async def form(context: JobContext, params: Form) -> dict[str, Any]:
    """Reports its parameters in `everything`."""
    return {"given": params.model_dump_json()}
