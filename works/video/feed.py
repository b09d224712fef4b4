"""A Feed is one encoding of a source (a width and a quality), at the highest rate that one of its receivers wants.

An action on the frames is another feed, which receives from the first.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from works.errors import WorkError
from works.imaging.task import Result, Task
from works.queue import WorkQueue
from works.video.frame import Frame


class FrameReceiver(Protocol):
    """Receives frames, at most ``fps`` a second; none while ``paused``."""

    fps: float

    @property
    def paused(self) -> bool: ...

    def offer(self, frame: Frame) -> None: ...

    def action_failed(self, error: WorkError, action: str) -> None:
        """The action has failed on a frame; the next frame is tried all the same."""


class Feed:
    def __init__(self) -> None:
        self.receivers: dict[FrameReceiver, None] = {}
        self.newest: Frame | None = None
        self.fps = 0.0

    @property
    def paused(self) -> bool:
        return not self.fps

    def update_fps(self) -> float:
        """Sets ``fps`` to the highest of its receivers, 0 when none wants frames."""
        self.fps = max((receiver.fps for receiver in self.receivers if not receiver.paused), default=0.0)
        return self.fps

    def publish(self, frame: Frame) -> None:
        self.newest = frame
        for receiver in list(self.receivers):
            receiver.offer(frame)


class ActionFeed(Feed):
    """The frames of another feed after an action of the slice pipeline.

    They go through the queue as background tasks, one at a time; then the newest that has come meanwhile is next.
    """

    def __init__(self, queue: WorkQueue, session: str, action: str, options: str) -> None:
        super().__init__()
        self._queue, self._session = queue, session
        self._action, self._options = action, options
        self._waiting: Frame | None = None
        self._is_working = self._closed = False
        self._reported_code = ""

    def offer(self, frame: Frame) -> None:
        if frame.placeholder:
            self._waiting = None
            self.publish(frame)
        elif self._is_working:
            self._waiting = frame
        else:
            self._submit(frame)

    def _submit(self, frame: Frame) -> None:
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
            return self.action_failed(error, self._action)
        self._is_working = True
        future.add_done_callback(self._make_callback(frame))

    def _make_callback(self, frame: Frame) -> Callable[["asyncio.Future[Result]"], None]:
        def on_done(future: "asyncio.Future[Result]") -> None:
            self._is_working = False
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or self._closed:
                return
            if isinstance(error, WorkError):
                self.action_failed(error, self._action)
            elif error is None and not (self.newest and self.newest.seq >= frame.seq):
                self._reported_code = ""
                done = future.result()
                self.publish(replace(frame, jpeg=done.payload, width=done.width, height=done.height, data=done.data))
            if waiting := self._waiting:
                self._waiting = None
                self.offer(waiting)

        return on_done

    def action_failed(self, error: WorkError, action: str) -> None:
        """Reports each error code once, until a frame has come through."""
        if error.code != self._reported_code:
            self._reported_code = error.code
            for receiver in list(self.receivers):
                receiver.action_failed(error, action)

    def close(self) -> None:
        """To be called when it has no receivers any more."""
        self._closed, self._waiting = True, None
        self._queue.forget(self._session)
