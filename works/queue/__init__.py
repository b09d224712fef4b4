"""The interface of a WorkQueue. It is the same for decoders on this machine and in a cluster.

Every accepted task ends in exactly one Result or WorkError. Sessions take turns. Within a session, the task nearest to
the viewport is next. Background tasks run only when no other task is waiting. The number and the bytes of waiting tasks
are limited, per session and in total; beyond a limit, ``submit`` raises Busy immediately.

Tasks are idempotent. A task whose worker dies is tried again, and fails as ``crashed`` after three attempts.
"""

import asyncio
from typing import Protocol

from works.imaging.task import Result, Task
from works.queue.order import Viewport


class WorkQueue(Protocol):
    async def start(self) -> None:
        """Starts the workers."""

    def submit(self, task: Task) -> "asyncio.Future[Result]":
        """Accepts a task. The future ends with its Result, or with a WorkError.

        Raises:
            Busy: a limit is reached. The task was not accepted.
            ValueError: a task of the same session and id is pending or running.
        """

    def rerank(self, session: str, image: str, viewport: Viewport) -> None:
        """Orders the pending tasks of this session and image around a new viewport."""

    def cancel(self, session: str, *, id: str | None = None, image: str | None = None) -> int:
        """Cancels the task with this id, the tasks of this image, or all tasks of the session. Returns their number.

        A running task fails immediately. Its worker is killed if it does not finish soon.
        """

    def forget(self, session: str) -> None:
        """Cancels all tasks of the session and forgets its viewports."""

    def ready(self) -> bool:
        """Returns whether tasks can be processed now."""

    async def close(self, deadline: float) -> None:
        """Accepts no more tasks, fails pending tasks as temporary, and waits ``deadline`` seconds for running tasks."""
