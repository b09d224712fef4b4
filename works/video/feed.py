"""A Feed is one encoding of a source (a width and a quality), at the highest frame rate that one of its receivers
wants.

An action on the frames is another feed, which receives its frames from the first feed.
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
    """An object that receives at most ``fps`` frames a second, and no frames while ``paused`` is true."""

    fps: float

    @property
    def paused(self) -> bool: ...

    def offer(self, frame: Frame) -> None: ...

    def action_failed(self, error: WorkError, action: str) -> None:
        """Notifies the receiver that the action has failed on a frame. The action still runs on the next frame."""


class Feed:
    def __init__(self) -> None:
        self.receivers: dict[FrameReceiver, None] = {}
        self.newest: Frame | None = None
        self.fps = 0.0

    @property
    def paused(self) -> bool:
        return not self.fps

    def update_fps(self) -> float:
        """Sets ``fps`` to the highest rate of the receivers, or 0 when no receiver wants frames,
        and returns the rate.
        """
        self.fps = max((receiver.fps for receiver in self.receivers if not receiver.paused), default=0.0)
        return self.fps

    def publish(self, frame: Frame) -> None:
        self.newest = frame
        for receiver in list(self.receivers):
            receiver.offer(frame)


class ActionFeed(Feed):
    """A feed that applies an action of the slice pipeline to the frames of another feed.

    Frames pass through the queue as background tasks, one at a time. After each task, the newest frame that was
    received during the task is submitted.
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
        """Reports each error code once, until the action succeeds on a frame."""
        if error.code != self._reported_code:
            self._reported_code = error.code
            for receiver in list(self.receivers):
                receiver.action_failed(error, action)

    def close(self) -> None:
        """Stops the action. Must be called once the feed has no receivers."""
        self._closed, self._waiting = True, None
        self._queue.forget(self._session)
