"""The contract of Marks, checked with every implementation: which events of a stream a reader has not read."""

from pathlib import Path

from tests.support.event_stores import event, every_kind, fill, opened
from works.events.marks import Mark


@every_kind
async def test_a_mark_counts_unread_events_and_moves_only_forward(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 5, durable=True)
        assert await store.marks.of_reader("alice") == {}
        assert await store.marks.set("s", "alice", 2) == Mark(2, 5)
        assert await store.marks.set("s", "alice", 1) == Mark(2, 5)
        assert await store.marks.set("s", "alice", 99) == Mark(5, 5)
        assert await store.marks.set("s", "bob", 0) == Mark(0, 5)
        await store.broker.append("s", event(6))
        assert await store.marks.of_reader("alice") == {"s": Mark(5, 6)}
        assert (await store.marks.of_reader("bob"))["s"].unread == 6


@every_kind
async def test_advance_moves_only_a_mark_that_exists(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        await fill(store.broker, "s", 5, durable=True)
        assert not await store.marks.advance("s", "alice", 2)
        assert await store.marks.of_reader("alice") == {}
        await store.marks.set("s", "alice", 1)
        for offset, expected in ((3, 3), (2, 3), (99, 5)):
            assert await store.marks.advance("s", "alice", offset)
            assert await store.marks.of_reader("alice") == {"s": Mark(expected, 5)}


@every_kind
async def test_a_mark_on_an_empty_stream_counts_later_events(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.marks.set("s", "alice", 0) == Mark(0, 0)
        assert await store.marks.of_reader("alice") == {"s": Mark(0, 0)}
        await fill(store.broker, "s", 3, durable=True)
        assert await store.marks.of_reader("alice") == {"s": Mark(0, 3)}


@every_kind
async def test_marks_survive_a_restart_and_end_when_removed_or_with_their_stream(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        for stream in ("kept", "left", "gone"):
            await fill(store.broker, stream, 3, durable=True)
            await store.marks.set(stream, "alice", 1)
        await store.marks.set("left", "bob", 1)
        await store.marks.remove("left", "alice")
        await store.broker.expire("gone", 0)
        await store.sweep()
    async with opened(kind, tmp_path) as store:
        assert await store.marks.of_reader("alice") == {"kept": Mark(1, 3)}
        assert await store.marks.of_reader("bob") == {"left": Mark(1, 3)}
