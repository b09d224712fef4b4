"""Sessions. A client that reconnects in time can continue its session. The slices of a client that stays away are
cancelled. No other user can resume a session.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import config
from handlers.core.slices import SliceEvent
from server import open_services
from tests.support.queues import held, moderate, task
from tests.support.running import full_disk, until
from works.errors import Busy, WorkError
from works.imaging.task import Task
from works.queue.order import Viewport
from works.services import Services
from works.sessions import Session

HOURS = 3600.0


class Connection:
    """Holds a session, and records whether another connection has taken it over."""

    lost = False

    def taken_over(self) -> None:
        self.lost = True


CONNECTION = Connection()


@asynccontextmanager
async def opened(
    folder: Path, *, grace: float = HOURS, ttl: float = HOURS, tasks: int = 512
) -> AsyncIterator[Services]:
    settings = config.settings_of(
        media=f"file:{folder}/media",
        uploads=f"file:{folder}/uploads",
        events=f"sqlite:{folder}/events.db",
        workers=1,
        isolation="thread",
        slice_timeout=60,
        session_tasks=tasks,
        session_events=1000,
        session_grace=grace,
        session_ttl=ttl,
        media_ttl=HOURS,
    )
    services = await open_services(settings)
    try:
        yield services
    finally:
        await services.drain(0)
        await services.close()


def send(session: Session, *tasks: Task, wants_bytes: bool = False) -> list[int]:
    return [session.submit(each, SliceEvent(each, "http://here", wants_bytes).encode) for each in tasks]


def quick(session: Session, *ids: str, **members: Any) -> list[Task]:
    return [task(id, session.id, offset_top=number, **members) for number, id in enumerate(ids)]


async def events_of(services: Services, session: Session, after: int, count: int) -> list[dict[str, Any]]:
    """Returns the next events of the session's stream, as a client receives them."""
    seen: list[dict[str, Any]] = []
    async with asyncio.timeout(60), aclosing(aiter(services.events.broker.subscribe(session.stream, after))) as batches:  # type: ignore[type-var]
        async for batch in batches:
            seen += [{"seq": event.offset, **json.loads(event.data)} for event in batch]
            if len(seen) >= count:
                break
    return seen


def brief(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(event["seq"], event["type"], event["id"]) for event in events]


async def test_each_slice_ends_in_one_event_with_its_result_or_error(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        bad = Task(session.id, "bad", b"no picture", 2, image="scan")
        assert send(session, *quick(session, "a", "b", image="scan"), bad) == [1, 2, 3]
        a, b, error = await events_of(services, session, 0, 3)
        assert brief([a, b, error]) == [(1, "result", "a"), (2, "result", "b"), (3, "error", "bad")]
        assert (a["image"], a["offset_top"], a["width"], a["height"], a["format"]) == ("scan", 0, 128, 64, "jpeg")
        assert services.results.read(a["url"].removeprefix("http://here/media/"))
        assert set(a["timing"]) == {"queued_ms", "work_ms"}
        assert (error["code"], error["temporary"], error["image"]) == ("bad_image", False, "scan")
        assert not session.pending


async def test_the_event_of_a_slice_requested_as_bytes_names_its_file_first(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, "a"), wants_bytes=True)
        (event,) = await events_of(services, session, 0, 1)
        assert list(event)[:3] == ["seq", "type", "file"]
        assert services.results.read(event["file"])


async def test_the_id_of_a_waiting_or_ended_slice_cannot_be_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session, other = (
            await services.sessions.begin("alice", CONNECTION),
            await services.sessions.begin("alice", CONNECTION),
        )
        send(session, *quick(session, "a"))
        for _ in range(2):
            with pytest.raises(WorkError, match="id: 'a' was already used in this session") as caught:
                send(session, *quick(session, "a"))
            assert caught.value.code == "bad_message"
            await events_of(services, session, 0, 1)
        send(other, *quick(other, "a"))
        assert (await services.events.broker.position(session.stream)).offset == 1


async def test_a_slice_refused_as_busy_can_be_sent_again_with_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path, tasks=1) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, "a"))
        with pytest.raises(Busy):
            send(session, *quick(session, "b"))
        await events_of(services, session, 0, 1)
        send(session, *quick(session, "b"))
        assert brief(await events_of(services, session, 1, 1)) == [(2, "result", "b")]


async def test_progress_is_counted_for_each_picture_and_reported_once(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        assert session.take_progress() == []
        send(session, *quick(session, "a", "b", image="one"), *quick(session, "c", image="two"))
        send(session, Task(session.id, "d", b"no picture", image="two"))
        await events_of(services, session, 0, 4)
        counts = {image: (count.done, count.failed, count.total) for image, count in session.take_progress()}
        assert counts == {"one": (2, 0, 2), "two": (1, 1, 2)}
        assert session.take_progress() == []
        send(session, *quick(session, "e", image="two"))
        await events_of(services, session, 4, 1)
        assert [(image, count.total) for image, count in session.take_progress()] == [("two", 3)]


async def test_a_viewport_and_a_cancel_reach_the_queue(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, *"abcd"))
        session.rerank("", Viewport(1000, 0))
        assert session.cancel(id="c") == 1
        assert [event["id"] for event in await events_of(services, session, 0, 4)] == ["c", "d", "b", "a"]


async def test_slices_are_processed_for_a_client_that_reconnects_within_the_grace(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, "a"))
        await events_of(services, session, 0, 1)
        send(session, moderate("b", session.id), *quick(session, "c"))
        services.sessions.release(session, CONNECTION, final=False)
        back = await services.sessions.resume("alice", session.id, session.epoch, 1, CONNECTION)
        assert back
        assert set(back.pending) == {"b", "c"}
        send(back, *quick(back, "d"))
        with pytest.raises(WorkError, match="already used"):
            send(back, *quick(back, "a"))
        assert brief(await events_of(services, back, 1, 3)) == [
            (2, "result", "b"),
            (3, "result", "c"),
            (4, "result", "d"),
        ]


async def test_after_the_grace_waiting_slices_are_cancelled_as_temporary_and_events_are_retained(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, grace=0.01) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        with held(services.queue):
            send(session, *quick(session, *"abcde"))
            services.sessions.release(session, CONNECTION, final=False)
            events = await events_of(services, session, 0, 5)
        assert {(event["code"], event["temporary"]) for event in events} == {("cancelled", True)}
        back = await services.sessions.resume("alice", session.id, session.epoch, 0, CONNECTION)
        assert back
        assert not back.pending
        assert await events_of(services, back, 0, 5) == events


async def test_slices_of_a_client_that_said_goodbye_are_cancelled(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *(moderate(str(number), session.id) for number in range(5)))
        services.sessions.release(session, CONNECTION, final=True)
        assert {event["code"] for event in await events_of(services, session, 0, 5)} == {"cancelled"}


async def test_a_session_is_resumed_only_by_its_owner_with_the_right_values(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, "a"))
        await events_of(services, session, 0, 1)
        services.sessions.release(session, CONNECTION, final=False)
        id, epoch = session.id, session.epoch
        wrong = [("bob", id, epoch, 0), ("alice", id, "another epoch", 0), ("alice", id, epoch, 2)]
        wrong += [("alice", name, epoch, 0) for name in ("0" * 32, "", "../x", id.upper() + "0", f"{id}\n")]
        wrong += [("", f"alice/{id}", epoch, 0)]
        for values in wrong:
            assert await services.sessions.resume(*values, CONNECTION) is None
        assert await services.sessions.resume("alice", id, epoch, 1, CONNECTION)


async def test_a_second_connection_takes_a_session_over_and_the_first_cannot_end_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, moderate("a", session.id), *quick(session, "b"))
        other = Connection()
        taken = await services.sessions.resume("alice", session.id, session.epoch, 0, other)
        assert taken
        assert CONNECTION.lost
        assert not other.lost
        services.sessions.release(session, CONNECTION, final=True)
        send(taken, *quick(taken, "c"))
        assert {event["type"] for event in await events_of(services, taken, 0, 3)} == {"result"}
        services.sessions.release(taken, other, final=False)
        assert await services.sessions.resume("alice", session.id, session.epoch, 3, CONNECTION)


async def test_a_session_can_be_resumed_after_an_orderly_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        with held(services.queue):
            send(session, *quick(session, "a", "b"))
            await services.drain(0)
        events = await events_of(services, session, 0, 2)
        assert {(event["code"], event["temporary"]) for event in events} == {("cancelled", True)}
    async with opened(tmp_path) as services:
        back = await services.sessions.resume("alice", session.id, session.epoch, 0, CONNECTION)
        assert back
        assert await events_of(services, back, 0, 2) == events


async def test_a_session_is_forgotten_after_its_ttl(tmp_path: Path) -> None:
    async with opened(tmp_path, grace=1e-9, ttl=1e-9) as services:
        session, idle = (
            await services.sessions.begin("alice", CONNECTION),
            await services.sessions.begin("alice", CONNECTION),
        )
        send(session, *quick(session, "a"))
        await events_of(services, session, 0, 1)
        for each in (session, idle):
            services.sessions.release(each, CONNECTION, final=False)
        await services.sessions.settle()
        await services.events.sweep()
        assert await services.sessions.resume("alice", session.id, session.epoch, 1, CONNECTION) is None


async def test_a_session_can_be_released_and_resumed_on_a_full_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        session = await services.sessions.begin("alice", CONNECTION)
        send(session, *quick(session, "a"))
        await events_of(services, session, 0, 1)
        with full_disk():
            services.sessions.release(session, CONNECTION, final=False)
            assert await services.sessions.resume("alice", session.id, session.epoch, 0, CONNECTION)
            assert any("events" in fault for fault in await services.faults())


async def test_sweeps_continue_after_a_sweep_has_failed(tmp_path: Path) -> None:
    async with opened(tmp_path) as services:
        old = services.results.put(b"x", ".jpg")
        os.utime(services.results.path(old), (0, 0))
        await services.events.broker.expire("over", 0)
        with full_disk():
            services.start_sweeps()
            await until(lambda: not services.results.path(old).exists())
            for _ in range(3):
                with pytest.raises(OSError, match="events cannot be written"):
                    await services.events.sweep()
            assert services.background.faults() == []
        async with asyncio.timeout(60):
            while await services.faults():
                pass
