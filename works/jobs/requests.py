"""The requests to jobs. The socket, HTTP and the terminal share one schema for each."""

from typing import Any, Literal

from pydantic import Field

from works.validation import StrictModel

State = Literal["running", "cancelling", "succeeded", "failed", "cancelled", "interrupted"]


class StartRequest(StrictModel):
    job: str = Field(max_length=100)
    params: dict[str, Any] = Field(default_factory=dict)
    client_id: str = Field(min_length=1, max_length=100)


class ListRequest(StrictModel):
    filter: Literal["mine", "all"] = "mine"
    state: State | None = None
    job: str | None = Field(None, max_length=100)
    before: str | None = Field(None, max_length=40)
    limit: int = Field(50, ge=1, le=100)


class RetryRequest(StrictModel):
    only: Literal["failed", "unreachable", "not_started", "cancelled", "unfinished"]
    client_id: str = Field(min_length=1, max_length=100)


class AnswerRequest(StrictModel):
    approval: str = Field(max_length=100)
    ok: bool
    text: str = Field("", max_length=1000)
