"""What a picture may be, before and after it is resized."""

from pydantic import Field, field_validator

from works.settings import MIB, Count, Names, SettingsGroup


class ImageLimits(SettingsGroup):
    max_slice_bytes: Count = Field(16 * MIB, description="bytes of one encoded slice")
    max_pixels: Count = Field(50_000_000, description="pixels of a picture and of its result")
    max_side: Count = Field(65_500, description="pixels a side; libjpeg takes no more")
    max_frames: Count = Field(1, description="frames of a picture; only the first is worked")
    formats: Names = Field(("jpeg", "png", "webp"), description="formats accepted")

    @field_validator("formats")
    @classmethod
    def _known_formats(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or set(value) - {"jpeg", "png", "webp"}:
            raise ValueError("choose from jpeg, png, webp")
        return value
