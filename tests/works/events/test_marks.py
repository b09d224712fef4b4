"""The EventLog's marks and presence: what is unread to whom, and who is there."""

from pathlib import Path

import pytest

from tests.support.event_logs import OPENERS, event, fill, opened
from works.events import Mark

every_kind = pytest.mark.parametrize("kind", OPENERS, indirect=True)


@every_kind
async def test_a_mark_says_what_is_unread_and_moves_only_onward(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 5, durable=True)
        assert await log.marks("alice") == {}
        assert await log.mark("s", "alice", 2) == Mark(2, 5)
        assert await log.mark("s", "alice", 1) == Mark(2, 5)
        assert await log.mark("s", "alice", 99) == Mark(5, 5)
        assert await log.mark("s", "bob", 0) == Mark(0, 5)
        await log.append("s", event(6))
        assert await log.marks("alice") == {"s": Mark(5, 6)}
        assert (await log.marks("bob"))["s"].unread == 6


@every_kind
async def test_a_mark_is_advanced_only_where_there_is_one(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        await fill(log, "s", 5, durable=True)
        assert not await log.advance("s", "alice", 2)
        assert await log.marks("alice") == {}
        await log.mark("s", "alice", 1)
        for offset, stands in ((3, 3), (2, 3), (99, 5)):
            assert await log.advance("s", "alice", offset)
            assert await log.marks("alice") == {"s": Mark(stands, 5)}


@every_kind
async def test_a_mark_on_a_stream_without_events_counts_what_comes(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.mark("s", "alice", 0) == Mark(0, 0)
        assert await log.marks("alice") == {"s": Mark(0, 0)}
        await fill(log, "s", 3, durable=True)
        assert await log.marks("alice") == {"s": Mark(0, 3)}


@every_kind
async def test_marks_outlive_a_restart_and_end_with_unmark_or_their_stream(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        for stream in ("kept", "left", "gone"):
            await fill(log, stream, 3, durable=True)
            await log.mark(stream, "alice", 1)
        await log.mark("left", "bob", 1)
        await log.unmark("left", "alice")
        await log.expire("gone", 0)
        await log.sweep()
    async with opened(kind, tmp_path) as log:
        assert await log.marks("alice") == {"kept": Mark(1, 3)}
        assert await log.marks("bob") == {"left": Mark(1, 3)}


@every_kind
async def test_a_user_is_present_until_the_last_connection_leaves(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as log:
        assert await log.enter("room", "alice", "phone")
        assert not await log.enter("room", "alice", "desk")
        assert not await log.enter("room", "alice", "desk")
        assert await log.enter("room", "bob", "phone")
        assert await log.enter("other", "carol", "desk")
        assert await log.present("room") == ["alice", "bob"]
        assert not await log.leave("room", "alice", "desk")
        assert await log.leave("room", "alice", "phone")
        assert not await log.leave("room", "alice", "phone")
        assert await log.present("room") == ["bob"]
        assert await log.present("nowhere") == []
