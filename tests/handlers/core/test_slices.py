"""Tests of slices on the wire: the exact JSON of their events, because stored events are read again later."""

from typing import Any

import pytest

from handlers.core.slices import SliceEvent, SliceMessage, add_seq, names_file, parse_fit
from works.errors import Busy, WorkError
from works.imaging.task import Result, Task

TASK = Task("session", "a", b"", offset_top=512, image="scan")
STORED = Result(128, 64, "jpeg", name="0f.jpg", work_ms=1.26, queued_ms=0.04)
FOUND = Result(128, 64, "jpeg", data={"codes": []})
TIMING = '"timing":{"queued_ms":0.0,"work_ms":1.3}}'
SIZE = '"id":"a","image":"scan","offset_top":512,"width":128,"height":64,"format":"jpeg"'
URL = '"url":"http://here/media/0f.jpg"'
# Servers have already stored events in exactly this form.
EVENTS = {
    "a URL": (SliceEvent(TASK, "http://here"), STORED, f'{{"type":"result",{SIZE},{URL},{TIMING}'),
    "bytes": (
        SliceEvent(TASK, "http://here", wants_bytes=True),
        STORED,
        f'{{"type":"result","file":"0f.jpg",{SIZE},{URL},{TIMING}',
    ),
    "data": (
        SliceEvent(TASK, "http://here"),
        FOUND,
        f'{{"type":"result",{SIZE},"data":{{"codes":[]}},"timing":{{"queued_ms":0.0,"work_ms":0.0}}}}',
    ),
    "an error": (
        SliceEvent(TASK, "http://here", wants_bytes=True),
        WorkError("bad_image", "cut short"),
        '{"type":"error","id":"a","image":"scan","code":"bad_image","message":"cut short","temporary":false}',
    ),
    "a temporary error": (
        SliceEvent(TASK, "http://here"),
        Busy("full", 50),
        '{"type":"error","id":"a","image":"scan","code":"busy","message":"full","temporary":true,"retry_after_ms":50}',
    ),
}


@pytest.mark.parametrize("case", EVENTS)
def test_the_json_of_results_and_errors_never_changes(case: str) -> None:
    event, outcome, text = EVENTS[case]
    assert event.encode(outcome) == text


@pytest.mark.parametrize("case", EVENTS)
def test_only_an_event_for_a_client_that_wants_bytes_names_a_file(case: str) -> None:
    assert names_file(EVENTS[case][2]) == (case == "bytes")


def test_a_stored_event_is_sent_with_its_offset_as_seq() -> None:
    assert add_seq('{"type":"error","id":"a"}', 7) == '{"seq":7,"type":"error","id":"a"}'


@pytest.mark.parametrize(("text", "box"), [(None, None), ("512x384", (512, 384)), ("1x99999", (1, 99999))])
def test_a_box_is_parsed(text: str | None, box: tuple[int, int] | None) -> None:
    assert parse_fit(text) == box
    assert message(fit=text).task("session", b"").fit == box


@pytest.mark.parametrize("text", ["", "512", "0x1", "1x0", "-1x1", "1x100000", "1x1x1", " 1x1", "1x1\n", "axb"])
def test_an_invalid_box_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="Input should be like 512x512"):
        message(fit=text)


def message(**members: Any) -> SliceMessage:
    return SliceMessage(type="slice", id="a", offset_top=0, **members)


def test_a_slice_that_asks_for_data_delivers_only_data() -> None:
    assert message(respond="data", action="codes").task("session", b"", "inline").deliver == "data"
    assert message(respond="bytes").task("session", b"", "inline").deliver == "inline"
    with pytest.raises(WorkError, match="returns a picture and no data"):
        message(respond="data").task("session", b"")
