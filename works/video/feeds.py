"""The feeds of one capture: so many sizes and so many actions at most, each served once for all who take it."""

import itertools
from typing import Any

from works.errors import Busy
from works.queue import WorkQueue
from works.video import WatchRequest
from works.video.feed import ActionFeed, Feed
from works.video.frame import Frame
from works.video.settings import VideoSettings
from works.video.watch import Watch

# A bound of a source is reached; viewers come and go. In milliseconds.
_RETRY_AFTER = 5000


class SizedFeed(Feed):
    """As the child encodes it."""

    def __init__(self, key: int, width: int, quality: int) -> None:
        super().__init__()
        self.key, self.width, self.quality = key, width, quality


class Feeds:
    """``session`` is the name by which the queue knows the work for this capture, and no other's."""

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
        """What the child is to encode: key, width, quality and frames a second of each."""
        for action in self._actions.values():
            action.count()
        return [[feed.key, feed.width, feed.quality, feed.fps] for feed in self.all() if feed.count()]

    def attach(self, watch: Watch, wish: WatchRequest) -> None:
        """Has the watch take what it wishes, or the nearest size when there are as many as may be.

        Raises Busy for one more action than may be.
        """
        sized = self._sized(wish.width, wish.quality)
        watch.feed = self._action(sized, wish) if wish.action else sized
        watch.size = sized.width, sized.quality
        watch.feed.takers[watch] = None

    def _sized(self, width: int, quality: int) -> SizedFeed:
        if known := self.find(width, quality):
            return known
        for idle in [feed for feed in self.all() if not feed.takers]:
            if len(self._feeds) >= self._settings.video_sizes:
                del self._feeds[idle.key]
        if len(self._feeds) >= self._settings.video_sizes:
            return min(
                self.all(), key=lambda feed: (feed.width < width, abs(feed.width - width), abs(feed.quality - quality))
            )
        feed = SizedFeed(next(self._keys), width, quality)
        self._feeds[feed.key] = feed
        return feed

    def _action(self, sized: SizedFeed, wish: WatchRequest) -> ActionFeed:
        name = sized.key, wish.action, wish.options
        if known := self._actions.get(name):
            return known
        if len(self._actions) >= self._settings.video_actions:
            raise Busy(f"{len(self._actions)} actions work on this source already (video_actions)", _RETRY_AFTER)
        session = f"{self._session}/{next(self._keys)}"
        self._actions[name] = feed = ActionFeed(self._queue, session, wish.action, wish.options)
        sized.takers[feed] = None
        return feed

    def detach(self, watch: Watch) -> None:
        watch.feed.takers.pop(watch, None)
        for name, action in list(self._actions.items()):
            if not action.takers:
                del self._actions[name]
                self._feeds[name[0]].takers.pop(action, None)
                action.close()

    def close(self) -> None:
        for action in self._actions.values():
            action.close()
        self._actions.clear()
