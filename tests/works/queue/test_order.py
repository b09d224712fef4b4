"""Pending tasks: limits that name their setting, turns between sessions, and the order by Rank within a session."""

import asyncio
import itertools
import random
import weakref
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from works.errors import Busy
from works.imaging.task import Result, Task
from works.queue.order import Entry, PendingTasks, Viewport
from works.queue.settings import QueueBounds

NO_FUTURE = cast("asyncio.Future[Result]", None)  # These tests only order entries, so no entry needs a future.
ARRIVALS = itertools.count(1)
ROOMY = QueueBounds()


def entry(session: str, id: str, offset_top: float = 0, payload: bytes | memoryview = b"", **members: Any) -> Entry:
    return Entry(Task(session, id, payload, offset_top, **members), NO_FUTURE, next(ARRIVALS), 0.0)


def filled(*entries: Entry, bounds: QueueBounds = ROOMY) -> PendingTasks:
    pending = PendingTasks(bounds)
    for each in entries:
        pending.add(each, 100)
    return pending


def taken(pending: PendingTasks, most: int = 10_000) -> list[str]:
    """Returns the ids of the next tasks, in the order in which they are taken."""
    return [each.task.id for each in itertools.islice(iter(pending.take, None), most)]


BOUNDS = [
    (QueueBounds(session_tasks=2), [1, 1], 1, "session_tasks"),
    (QueueBounds(session_bytes=10), [4, 4], 3, "session_bytes"),
    (QueueBounds(queue_bytes=10), [4, 4], 3, "queue_bytes"),
]


@pytest.mark.parametrize(("bounds", "before", "size", "setting"), BOUNDS)
def test_beyond_a_limit_tasks_are_refused_with_the_name_of_the_setting(
    bounds: QueueBounds, before: list[int], size: int, setting: str
) -> None:
    pending = filled(*(entry("s", str(at), payload=bytes(each)) for at, each in enumerate(before)), bounds=bounds)
    late = entry("s", "late", payload=bytes(size))
    with pytest.raises(Busy, match=rf"\({setting}\)") as caught:
        pending.add(late, 1234)
    assert (caught.value.code, caught.value.temporary, caught.value.retry_after_ms) == ("busy", True, 1234)
    assert (pending.count, pending.bytes) == (2, sum(before))
    pending.take()
    pending.add(late, 1234)
    assert pending.bytes == before[1] + size


def test_a_session_at_its_limit_blocks_no_other_session_but_the_total_limit_does() -> None:
    pending = filled(entry("a", "1", payload=bytes(6)), bounds=QueueBounds(session_bytes=6, queue_bytes=10))
    pending.add(entry("b", "1", payload=bytes(4)), 100)
    with pytest.raises(Busy, match="queue_bytes"):
        pending.add(entry("c", "1", payload=bytes(1)), 100)
    pending.add(entry("c", "2"), 100)


ORDERS: list[tuple[str, Viewport | None, list[tuple[str, float, float]], list[str]]] = [
    ("no viewport: the topmost first", None, [("c", 30, 10), ("a", 10, 10), ("b", 20, 10)], ["a", "b", "c"]),
    (
        "the nearest first",
        Viewport(100, 20),
        [("far", 0, 10), ("on it", 110, 10), ("next", 125, 9)],
        ["on it", "next", "far"],
    ),
    (
        "a slice that touches the viewport counts as visible",
        Viewport(100, 20),
        [("b", 120, 10), ("a", 90, 10)],
        ["a", "b"],
    ),
    (
        "a slice above the viewport: distance from its lower edge",
        Viewport(100, 0),
        [("b", 140, 10), ("a", 0, 70)],
        ["a", "b"],
    ),
    ("same distance: the topmost first", Viewport(100, 0), [("below", 110, 1), ("above", 80, 10)], ["above", "below"]),
    ("same position: the oldest first", Viewport(100, 0), [("x", 5, 1), ("y", 5, 1), ("z", 5, 1)], ["x", "y", "z"]),
    ("a viewport below the end of the picture", Viewport(1e9, 1), [("a", 0, 9), ("b", 10, 9)], ["b", "a"]),
]


@pytest.mark.parametrize(("viewport", "slices", "order"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_within_a_session_the_order_is_by_rank(
    viewport: Viewport | None, slices: list[tuple[str, float, float]], order: list[str]
) -> None:
    pending = filled(*(entry("s", id, top, height=height) for id, top, height in slices))
    if viewport:
        pending.rerank("s", "", viewport)
    assert taken(pending) == order


def test_a_viewport_that_arrives_before_the_slices_applies_to_them() -> None:
    pending = PendingTasks(ROOMY)
    pending.rerank("s", "", Viewport(50, 10))
    for top in (0, 90, 50):
        pending.add(entry("s", str(top), top), 100)
    assert taken(pending) == ["50", "90", "0"]


def test_a_viewport_that_moves_halfway_orders_the_remaining_tasks() -> None:
    tops = list(range(0, 1000, 10))
    random.Random(1).shuffle(tops)
    pending = filled(*(entry("s", str(top), top) for top in tops))
    assert taken(pending, 50) == [str(top) for top in range(0, 500, 10)]
    pending.rerank("s", "", Viewport(3, 0))
    pending.rerank("s", "", Viewport(2000, 0))
    assert taken(pending) == [str(top) for top in range(990, 490, -10)]


def test_a_viewport_belongs_to_one_picture_of_one_session() -> None:
    pending = filled(*(entry("s", f"{image}{top}", top, image=image) for image in "xy" for top in (0, 500)))
    pending.rerank("s", "x", Viewport(500, 0))
    pending.rerank("t", "y", Viewport(500, 0))
    assert taken(pending) == ["y0", "x500", "x0", "y500"]


def test_sessions_take_turns_however_many_tasks_each_has() -> None:
    pending = filled(*(entry("a", f"a{at}") for at in range(5)), entry("b", "b0"), entry("b", "b1"), entry("c", "c0"))
    assert taken(pending) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"]


def test_a_new_session_is_served_before_the_session_that_was_just_served() -> None:
    pending = filled(*(entry("a", f"a{at}") for at in range(4)))
    assert taken(pending, 1) == ["a0"]
    pending.add(entry("b", "b0"), 100)
    pending.add(entry("c", "c0"), 100)
    assert taken(pending) == ["b0", "c0", "a1", "a2", "a3"]


def test_background_sessions_are_served_when_no_other_session_waits() -> None:
    pending = filled(*(entry(name, f"{name}{at}", background=name in "xy") for name in "xya" for at in range(2)))
    assert taken(pending, 3) == ["a0", "a1", "x0"]
    pending.add(entry("b", "b0"), 100)
    assert taken(pending) == ["b0", "y0", "x1", "y1"]


def test_many_new_sessions_do_not_starve_an_older_session() -> None:
    pending = filled(*(entry("a", f"a{at}") for at in range(100)))
    given = []
    for number in range(40):
        pending.add(entry(f"new{number}", "new"), 100)
        given += taken(pending, 1)
    assert len(given) - given.count("new") >= 5


def test_cancel_removes_one_task_or_a_picture_or_a_session_and_no_other_tasks() -> None:
    pending = filled(*(entry(s, f"{i}{n}", n, b"12", image=i) for s in "ab" for i in "xy" for n in range(3)))
    assert [gone.task.id for gone in pending.remove("a", id="x1")] == ["x1"]
    assert pending.remove("a", id="x1") == pending.remove("unknown") == []
    assert [gone.task.id for gone in pending.remove("a", image="y")] == ["y0", "y1", "y2"]
    assert (pending.count, pending.bytes, pending.count_of("a"), pending.count_of("b")) == (8, 16, 2, 6)
    assert {gone.task.id for gone in pending.remove("a")} == {"x0", "x2"}
    assert taken(pending) == ["x0", "y0", "x1", "y1", "x2", "y2"]
    assert (pending.count, pending.bytes) == (0, 0)


def test_an_id_is_pending_only_once_and_can_be_used_again_after_its_removal() -> None:
    pending = filled(entry("s", "1"), entry("t", "1"))
    with pytest.raises(ValueError, match="'1' is already waiting"):
        pending.add(entry("s", "1"), 100)
    assert pending.count == 2
    pending.remove("s", "1")
    pending.add(entry("s", "1", 7), 100)
    assert taken(pending) == ["1", "1"]


def test_forgetting_a_session_also_forgets_its_viewports() -> None:
    pending = filled(entry("s", "1"))
    pending.rerank("s", "", Viewport(500, 0))
    assert len(pending.forget("s")) == 1
    for top in (500, 0):
        pending.add(entry("s", str(top), top), 100)
    assert taken(pending) == ["0", "500"]


def test_cancelled_tasks_use_no_memory_while_others_wait() -> None:
    pending = filled(entry("s", "stays"))
    held = []
    for number in range(10):
        pixels = np.zeros(1000, np.uint8)
        held.append(weakref.ref(pixels))
        pending.add(entry("s", str(number), payload=memoryview(pixels)), 100)
        del pixels
        pending.remove("s", str(number))
    assert [ref() for ref in held] == [None] * 10
    assert taken(pending) == ["stays"]


SESSIONS, IMAGES = st.sampled_from("abcd"), st.sampled_from("xy")
BACKGROUND = "cd"
PIXELS = st.integers(0, 20)


class AgainstANaiveModel(RuleBasedStateMachine):
    """Applies the same operations to PendingTasks and to plain lists, which are sorted again for every task that is
    taken.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bounds = QueueBounds(session_tasks=5, session_bytes=12, queue_bytes=20)
        self.pending = PendingTasks(self.bounds)
        self.waiting: list[Entry] = []
        self.viewports: dict[tuple[str, str], Viewport] = {}
        self.turns: dict[bool, list[str]] = {False: [], True: []}
        self.served = {False: "", True: ""}

    def of(self, session: str) -> list[Entry]:
        return [each for each in self.waiting if each.task.session == session]

    def nearness(self, each: Entry) -> tuple[float, float, int]:
        task = each.task
        top, height = self.viewports.get((task.session, task.image), (0, 0))
        gap = max(top - (task.offset_top + task.height), task.offset_top - (top + height), 0)
        return gap, task.offset_top, each.arrival

    def leave(self, gone: list[Entry]) -> None:
        self.waiting = [each for each in self.waiting if each not in gone]
        self.turns = {kind: [session for session in turns if self.of(session)] for kind, turns in self.turns.items()}

    @rule(session=SESSIONS, image=IMAGES, id=st.integers(0, 7), top=PIXELS, height=PIXELS, size=st.integers(0, 5))
    def add(self, session: str, image: str, id: int, top: int, height: int, size: int) -> None:
        new = entry(session, str(id), top, bytes(size), image=image, height=height, background=session in BACKGROUND)
        mine = self.of(session)
        taken = sum(len(each.task.payload) for each in self.waiting)
        if any(each.task.id == new.task.id for each in mine):
            expected: type[Exception] | None = ValueError
        elif len(mine) == 5 or sum(len(each.task.payload) for each in mine) + size > 12 or taken + size > 20:
            expected = Busy
        else:
            expected = None
        if expected:
            with pytest.raises(expected):
                self.pending.add(new, 100)
            return
        self.pending.add(new, 100)
        self.waiting.append(new)
        turns = self.turns[session in BACKGROUND]
        if session not in turns:
            turns.append(session)

    @rule()
    def take(self) -> None:
        kind = not self.turns[False]
        turns = self.turns[kind]
        # The sort is stable, so only the session that was served last moves to the end.
        turns.sort(key=lambda session: session == self.served[kind])
        expected = min(self.of(turns[0]), key=self.nearness) if turns else None
        assert self.pending.take() is expected
        if expected:
            self.served[kind] = turns.pop(0)
            turns.append(self.served[kind])
            self.leave([expected])

    @rule(session=SESSIONS, image=IMAGES, top=PIXELS, height=PIXELS)
    def look(self, session: str, image: str, top: int, height: int) -> None:
        self.pending.rerank(session, image, Viewport(top, height))
        self.viewports[session, image] = Viewport(top, height)

    @rule(session=SESSIONS, id=st.none() | st.integers(0, 7), image=st.none() | IMAGES)
    def cancel(self, session: str, id: int | None, image: str | None) -> None:
        gone = [each for each in self.of(session) if id is None or each.task.id == str(id)]
        gone = [each for each in gone if id is not None or image in (None, each.task.image)]
        assert self.pending.remove(session, None if id is None else str(id), image) == gone
        self.leave(gone)

    @rule(session=SESSIONS)
    def forget(self, session: str) -> None:
        gone = self.of(session)
        assert self.pending.forget(session) == gone
        self.leave(gone)
        self.viewports = {key: viewport for key, viewport in self.viewports.items() if key[0] != session}

    @invariant()
    def the_counts_and_sums_are_right(self) -> None:
        assert self.pending.count == len(self.waiting)
        assert self.pending.bytes == sum(len(each.task.payload) for each in self.waiting)
        assert all(self.pending.count_of(session) == len(self.of(session)) for session in "abcd")


TestAgainstANaiveModel = AgainstANaiveModel.TestCase
TestAgainstANaiveModel.settings = settings(deadline=None, max_examples=150, stateful_step_count=40)
