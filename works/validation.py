"""The base class of all models of data from outside, and the description of invalid data."""

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_NUMBERS = (int, float, int | None, float | None)


class StrictModel(BaseModel):
    """Refuses unknown members, because a misspelled one would have no effect.

    Also refuses JSON's true and false where a number is expected, because Python treats them as 1 and 0.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in _NUMBERS:
            raise PydanticCustomError("number_type", "Input should be a valid number")
        return value


def describe_faults(error: ValidationError, whole: str, most: int = 5) -> str:
    """Describes each fault with its place, and never the value. ``whole`` is the place of a fault in the data as a
    whole.
    """
    faults = error.errors(include_url=False, include_input=False)[:most]
    lines = (f"{'.'.join(map(str, fault['loc'])) or whole}: {fault['msg']}" for fault in faults)
    return "; ".join(lines)[:500]
