"""What a group of settings is. Each group is declared once, in the room that it is for, and handed there whole.

A member's name is the setting's name everywhere: `video_width` is the flag `--video-width`, the variable
`SLUICE_VIDEO_WIDTH` and the key `video_width` of `.env`. config.py puts the groups together and fills them.
"""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

MIB = 1 << 20


class SettingsGroup(BaseModel):
    """Settings that belong together: every member has a default, bounds and a description with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


def _split(value: Any) -> Any:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several words, written with commas or spaces between them."""


def check_web_address(value: str | None) -> str | None:
    """For a field_validator. Raises ValueError for what is no HTTP address."""
    if value and not value.startswith(("http://", "https://")):
        raise ValueError("must begin with http:// or https://")
    return value
