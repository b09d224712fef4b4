"""A Feed is one encoding of a source, for all who take it: of that width and quality, at the highest rate that
somebody wants. With an action on the frames it is another feed, which takes the first."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from works.errors import WorkError
from works.imaging.task import Result, Task
from works.queue import WorkQueue
from works.video.frame import Frame


class Taker(Protocol):
    """Who takes frames, at most ``fps`` a second; a paused one takes none."""

    fps: float

    @property
    def paused(self) -> bool: ...

    def offer(self, frame: Frame) -> None: ...

    def troubled(self, error: WorkError, action: str) -> None:
        """The action on the frames fails; the next is tried all the same."""


class Feed:
    def __init__(self) -> None:
        self.takers: dict[Taker, None] = {}
        self.newest: Frame | None = None
        self.fps = 0.0

    @property
    def paused(self) -> bool:
        return not self.fps

    def count(self) -> float:
        """Sets ``fps``: what somebody wants at most, 0 when nobody wants any."""
        self.fps = max((taker.fps for taker in self.takers if not taker.paused), default=0.0)
        return self.fps

    def publish(self, frame: Frame) -> None:
        self.newest = frame
        for taker in list(self.takers):
            taker.offer(frame)


class ActionFeed(Feed):
    """The frames of another feed after an action of the slice pipeline: through the same queue, in the background, one
    at a time, and then the newest that has come meanwhile."""

    def __init__(self, queue: WorkQueue, session: str, action: str, options: str) -> None:
        super().__init__()
        self._queue, self._session = queue, session
        self._action, self._options = action, options
        self._waiting: Frame | None = None
        self._works = self._closed = False
        self._trouble = ""

    def offer(self, frame: Frame) -> None:
        if frame.placeholder:
            self._waiting = None
            self.publish(frame)
        elif self._works:
            self._waiting = frame
        else:
            self._begin(frame)

    def _begin(self, frame: Frame) -> None:
        task = Task(
            session=self._session,
            id=str(frame.seq),
            payload=frame.jpeg,
            action=self._action,
            options=json.loads(self._options),
            format="jpeg",
            deliver="inline",
            background=True,
        )
        try:
            future = self._queue.submit(task)
        except WorkError as error:
            return self.troubled(error, self._action)
        self._works = True
        future.add_done_callback(self._ended(frame))

    def _ended(self, frame: Frame) -> Callable[["asyncio.Future[Result]"], None]:
        def ended(future: "asyncio.Future[Result]") -> None:
            self._works = False
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or self._closed:
                return
            if isinstance(error, WorkError):
                self.troubled(error, self._action)
            elif error is None and not (self.newest and self.newest.seq >= frame.seq):
                self._trouble = ""
                done = future.result()
                self.publish(replace(frame, jpeg=done.payload, width=done.width, height=done.height, data=done.data))
            if waiting := self._waiting:
                self._waiting = None
                self.offer(waiting)

        return ended

    def troubled(self, error: WorkError, action: str) -> None:
        """Each kind of trouble is told once, until a frame has come through."""
        if error.code != self._trouble:
            self._trouble = error.code
            for taker in list(self.takers):
                taker.troubled(error, action)

    def close(self) -> None:
        """Nobody takes it any more."""
        self._closed, self._waiting = True, None
        self._queue.forget(self._session)
