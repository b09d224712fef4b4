"""The feeds of one capture: a limited number of sizes and actions, each encoded once for all its receivers."""

import itertools
from typing import Any

from works.errors import Busy
from works.queue import WorkQueue
from works.video import WatchRequest
from works.video.feed import ActionFeed, Feed
from works.video.frame import Frame
from works.video.settings import VideoSettings
from works.video.watch import Watch

# Milliseconds. A limit of the source was reached; a retry may succeed, because viewers leave.
_RETRY_AFTER = 5000


class SizedFeed(Feed):
    """A feed that the child encodes: at most ``width`` pixels across, with this JPEG quality."""

    def __init__(self, key: int, width: int, quality: int) -> None:
        super().__init__()
        self.key, self.width, self.quality = key, width, quality


class Feeds:
    """All feeds of one capture. ``session`` is the prefix of the queue sessions that this capture uses."""

    def __init__(self, settings: VideoSettings, queue: WorkQueue, session: str) -> None:
        self._settings, self._queue, self._session = settings, queue, session
        self._feeds: dict[int, SizedFeed] = {}
        self._actions: dict[tuple[int, str, str], ActionFeed] = {}
        self._keys = itertools.count()

    def all(self) -> list[SizedFeed]:
        return list(self._feeds.values())

    def find(self, width: int, quality: int) -> SizedFeed | None:
        return next((feed for feed in self.all() if (feed.width, feed.quality) == (width, quality)), None)

    def publish(self, key: int, frame: Frame) -> None:
        if feed := self._feeds.get(key):
            feed.publish(frame)

    def wants(self) -> list[list[Any]]:
        """Returns the encodings that the child must produce: [key, width, quality, frames a second] of each."""
        for action in self._actions.values():
            action.update_fps()
        return [[feed.key, feed.width, feed.quality, feed.fps] for feed in self.all() if feed.update_fps()]

    def attach(self, watch: Watch, request: WatchRequest) -> None:
        """Attaches the watch to the feed that it requests, or to the nearest size once there are ``video_sizes`` sizes.

        Raises Busy when the action would exceed ``video_actions``.
        """
        sized = self._sized_feed(request.width, request.quality)
        watch.feed = self._action_feed(sized, request) if request.action else sized
        watch.size = sized.width, sized.quality
        watch.feed.receivers[watch] = None

    def _sized_feed(self, width: int, quality: int) -> SizedFeed:
        if known := self.find(width, quality):
            return known
        for idle in [feed for feed in self.all() if not feed.receivers]:
            if len(self._feeds) >= self._settings.video_sizes:
                del self._feeds[idle.key]
        if len(self._feeds) >= self._settings.video_sizes:
            return min(
                self.all(), key=lambda feed: (feed.width < width, abs(feed.width - width), abs(feed.quality - quality))
            )
        feed = SizedFeed(next(self._keys), width, quality)
        self._feeds[feed.key] = feed
        return feed

    def _action_feed(self, sized: SizedFeed, request: WatchRequest) -> ActionFeed:
        name = sized.key, request.action, request.options
        if known := self._actions.get(name):
            return known
        if len(self._actions) >= self._settings.video_actions:
            raise Busy(
                f"this source already has {len(self._actions)} actions (video_actions); retry later", _RETRY_AFTER
            )
        session = f"{self._session}/{next(self._keys)}"
        self._actions[name] = feed = ActionFeed(self._queue, session, request.action, request.options)
        sized.receivers[feed] = None
        return feed

    def detach(self, watch: Watch) -> None:
        watch.feed.receivers.pop(watch, None)
        for name, action in list(self._actions.items()):
            if not action.receivers:
                del self._actions[name]
                self._feeds[name[0]].receivers.pop(action, None)
                action.close()

    def close(self) -> None:
        for action in self._actions.values():
            action.close()
        self._actions.clear()
