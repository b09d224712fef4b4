"""A job that only talks: the benchmark's own kind, loaded by the setting ``job_modules``."""

from pydantic import BaseModel

from works.jobs import JobContext, job


class ChatterParams(BaseModel):
    lines: int = 1000


@job
async def chatter(context: JobContext, params: ChatterParams) -> None:
    """Says so many lines when it is told to."""
    await context.approve("Shall I?")
    for number in range(params.lines):
        await context.log(f"line {number:06} of a program that says what it does")
