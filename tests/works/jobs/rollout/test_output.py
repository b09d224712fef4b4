"""Output in chunks of any size has the same lines, the same tail and the same markers."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from works.jobs.rollout.output import Output

TEXT = "first\r\nsecond\nprogress 1\rprogress 2\r\n\nnaïve — ☃\nlast".encode()
LINES = ["first", "second", "progress 1", "progress 2", "", "naïve — ☃", "last"]


def fed(output: Output, data: bytes, cuts: list[int]) -> list[str]:
    """Returns all lines of the data, which is cut into chunks at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    return [line for piece in pieces for line in output.feed(piece)] + output.rest()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_are_split(cuts: list[int]) -> None:
    output = Output(live=1000, kept=1000)
    output.watch_for("progress 2\r\n\nna")
    assert fed(output, TEXT, cuts) == LINES
    assert output.tail == TEXT.decode()
    assert output.marked


def test_a_marker_that_is_split_between_two_pieces_is_found() -> None:
    output = Output(live=10, kept=10)
    output.watch_for("CHANGED")
    for piece in (b"x" * 100 + b"CHA", b"NGE"):
        output.feed(piece)
        assert not output.marked
    output.feed(b"D")
    assert output.marked
    output.watch_for("CHANGED")
    assert not output.marked


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=10), st.integers(1, 200), st.integers(1, 200))
def test_never_more_is_shown_and_kept_than_the_limits_allow(data: bytes, cuts: list[int], live: int, kept: int) -> None:
    output = Output(live, kept)
    shown = fed(output, data, cuts)
    assert sum(len(line) for line in shown if not line.startswith("(it prints more")) <= live
    cut = len(data) > kept
    assert len(output.tail) <= kept + (60 if cut else 0)
    assert output.tail.startswith(f"({len(data) - kept:,} earlier bytes were dropped)\n") == cut
    assert output.total == len(data)


def test_a_line_without_an_end_is_split_into_pieces() -> None:
    lines = fed(Output(live=10_000, kept=10), b"x" * 7001, [])
    assert [len(line) for line in lines] == [2000, 2000, 2000, 1001]
