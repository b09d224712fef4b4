"""The promise of a WorkQueue, whatever does the work.

Every accepted task ends in exactly one Result or WorkError. Sessions are served in turn; within one, the task nearest
to its viewport comes first; background tasks are taken when no other waits. The queue is bounded in count and bytes,
per session and in all, and says Busy at once. A task that kills its worker three times is failed as
``crashed``: tasks are idempotent, so it is tried again before.
"""

import asyncio
from typing import Protocol

from works.imaging.task import Result, Task
from works.queue.order import Viewport


class WorkQueue(Protocol):
    async def start(self) -> None:
        """Makes the workers ready."""

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        """Accepts the task, or raises Busy. The future ends in the Result or raises WorkError.

        Raises ValueError when a task of that session and id is still pending or running.
        """

    def rerank(self, session: str, image: str, viewport: Viewport) -> None:
        """From now on the session's tasks of that image are ordered around this viewport."""

    def cancel(self, session: str, *, id: str | None = None, image: str | None = None) -> int:
        """Ends tasks as ``cancelled``: the one of that id, those of that image, or all; gives back how many.

        What runs is ended at once too; its worker is stopped if it does not finish soon.
        """

    def forget(self, session: str) -> None:
        """Cancels all of the session's tasks and drops its viewports."""

    def ready(self) -> bool:
        """Whether work can be done now."""

    async def close(self, deadline: float) -> None:
        """Accepts no more, fails what is pending as temporary, and waits ``deadline`` seconds for what runs."""
