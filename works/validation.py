"""Given: the ground of every model of what somebody sent, and the words for what does not fit one."""

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

_NUMBERS = (int, float, int | None, float | None)


class StrictModel(BaseModel):
    """Unknown members are refused: a misspelt one would be silently without effect. So are JSON's true and false
    where a number is wanted: Python counts with them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation in _NUMBERS:
            raise PydanticCustomError("number_type", "Input should be a valid number")
        return value


def describe_faults(error: ValidationError, whole: str, most: int = 5) -> str:
    """Each fault at its place, never the value; ``whole`` names what is wrong at no place in particular."""
    faults = error.errors(include_url=False, include_input=False)[:most]
    lines = (f"{'.'.join(map(str, fault['loc'])) or whole}: {fault['msg']}" for fault in faults)
    return "; ".join(lines)[:500]
