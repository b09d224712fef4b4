"""The limits of a picture, before and after it is resized."""

from pydantic import Field, field_validator

from works.settings import MIB, Count, Names, SettingsGroup


class ImageLimits(SettingsGroup):
    """Limits of the pictures that are accepted."""

    max_slice_bytes: Count = Field(
        16 * MIB, description="Maximum number of bytes of one encoded slice. More needs more memory per slice."
    )
    max_pixels: Count = Field(
        50_000_000,
        description=(
            "Maximum number of pixels of a picture and of its result. A pixel takes about 3 bytes of memory while it "
            "is processed."
        ),
    )
    max_side: Count = Field(
        65_500, description="Maximum number of pixels of a side of a picture. libjpeg accepts no more than the default."
    )
    max_frames: Count = Field(
        1, description="Maximum number of frames of a picture. Only the first frame of an animation is processed."
    )
    formats: Names = Field(
        ("jpeg", "png", "webp"),
        description="Picture formats that are accepted, of jpeg, png and webp, separated by spaces.",
    )

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - {"jpeg", "png", "webp"}:
            raise ValueError("choose from jpeg, png, webp")
        return value
