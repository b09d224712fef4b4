"""The settings of the job `film`: how long and how large films may be."""

from pydantic import Field

from works.settings import Count, SettingsGroup


class FilmSettings(SettingsGroup):
    film_frames: Count = Field(36_000, description="frames of a film that are worked: 20 minutes of 30 a second")
    film_pixels: Count = Field(9_000_000, description="pixels of a film's frame; 3840 x 2160 have 8.3 million")
    film_bytes: Count = Field(2 << 30, description="bytes of a film that is made; it waits on the disk until its end")
