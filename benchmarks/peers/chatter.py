"""A job that only writes log lines. It is a kind of job for the benchmark, loaded by the setting ``job_modules``."""

from pydantic import BaseModel

from works.jobs import JobContext, job


class ChatterParams(BaseModel):
    lines: int = 1000


@job
async def chatter(context: JobContext, params: ChatterParams) -> None:
    """Writes ``lines`` log lines once a user has approved."""
    await context.approve("Continue?")
    for number in range(params.lines):
        await context.log(f"line {number:06} of a program that says what it does")
