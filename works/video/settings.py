"""The settings of live video: what can be watched, and what is captured, encoded and watched at most."""

from pydantic import Field, SecretStr

from works.settings import Count, Seconds, SettingsGroup


class VideoSettings(SettingsGroup):
    """All bounds hold for this server alone; widths are in pixels, memory in bytes."""

    sources: SecretStr | None = Field(
        None, description="what can be watched: name=place ..., a JSON object, or a .json file; docs/video.md"
    )
    video_watches: Count = Field(16, description="watches of a video socket; a wall of sources has as many")
    video_viewers: Count = Field(200, description="watches of a video source, unless it says otherwise")
    video_viewers_per_user: Count = Field(100, description="of these a user's, so that others can watch it too")
    video_captures: Count = Field(32, description="video captures open at once, each a process of some 50 MiB")
    video_captures_per_user: Count = Field(16, description="recordings a user has open at once, so that others can too")
    video_sizes: Count = Field(6, description="widths and qualities that a capture is encoded in; the nearest beyond")
    video_actions: Count = Field(4, description="actions at work on the frames of a capture")
    video_width: int = Field(1920, ge=16, le=16_384, description="pixels across of a video frame")
    video_fps: float = Field(30, gt=0, le=240, description="frames a second of a watch; more are left out")
    video_grace: Seconds = Field(10, description="seconds that a capture stays open after its last viewer")
    video_watchdog: Seconds = Field(10, description="seconds for a capture to open or to send; then it is killed")
    video_retry: Seconds = Field(30, description="most seconds before a lost video source is tried again")
    video_memory: int = Field(1 << 30, ge=1 << 29, description="bytes of address space of a video capture")
