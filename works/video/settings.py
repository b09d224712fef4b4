"""The settings of live video: the sources, and the limits of captures, encodings and watches."""

from pydantic import Field, SecretStr

from works.settings import Count, Seconds, SettingsGroup


class VideoSettings(SettingsGroup):
    """Sources and limits of live video. Every limit is for this server alone."""

    sources: SecretStr | None = Field(
        None,
        description="Video sources: name=place ..., a JSON object, or the path of a .json file. See docs/video.md.",
    )
    video_watches: Count = Field(
        16, description="Maximum number of watches (sources on the screen) of one video socket."
    )
    video_viewers: Count = Field(
        200, description="Maximum number of watches of one source by all users. A source can set its own limit."
    )
    video_viewers_per_user: Count = Field(
        100, description="Maximum number of watches of one source by one user. Less leaves more for other users."
    )
    video_captures: Count = Field(32, description="Maximum number of open captures. Each is a process of about 50 MiB.")
    video_captures_per_user: Count = Field(
        16, description="Maximum number of recordings that one user has open. Less leaves more for other users."
    )
    video_sizes: Count = Field(
        6,
        description=(
            "Maximum number of distinct encodings (width and quality) per source. Further requests get the nearest one."
        ),
    )
    video_actions: Count = Field(
        4, description="Maximum number of different actions at the same time on the frames of one source."
    )
    video_width: int = Field(1920, ge=16, le=16_384, description="Largest width of a video frame, in pixels.")
    video_fps: float = Field(
        30, gt=0, le=240, description="Maximum number of frames a second of one watch. More frames are left out."
    )
    video_grace: Seconds = Field(
        10,
        description="Seconds that a live source stays open after its last viewer. More lets the next viewer start "
        "sooner.",
    )
    video_watchdog: Seconds = Field(
        10, description="Seconds in which a capture must open or send a frame. Then it is killed and started again."
    )
    video_retry: Seconds = Field(
        30, description="Maximum number of seconds between two attempts to open a lost source."
    )
    video_memory: int = Field(1 << 30, ge=1 << 29, description="Bytes of address space of one capture process.")
