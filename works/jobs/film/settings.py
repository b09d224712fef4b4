"""The settings of the job kind `film`: limits of the length and size of films."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class FilmSettings(SettingsGroup):
    """Limits of the job kind film."""

    film_frames: Count = Field(
        36_000,
        description=(
            "Maximum number of frames of a film that are processed. The default is 20 minutes at 30 frames a second."
        ),
    )
    film_pixels: Count = Field(
        9_000_000, description="Maximum number of pixels of a frame of a film. A frame of 3840 x 2160 has 8.3 million."
    )
    film_bytes: Count = Field(
        2 << 30,
        description="Maximum number of bytes of a film that a job writes. It waits on the disk until the job ends.",
    )
