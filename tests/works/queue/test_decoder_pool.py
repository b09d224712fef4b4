"""Decoder children that are killed, do not answer, need too much memory, or lose their forkserver. Each costs at most
its current slice, and no process remains at the end.
"""

import asyncio
import os
import resource
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from tests.support.pictures import encoded
from tests.support.queues import begun, children, endless, error_of, forkserver, held, kill_all, moderate, opened, task
from tests.support.running import alive, until
from works.errors import WorkError
from works.imaging.settings import ImageLimits
from works.queue.decoder_child import ChildConfig
from works.queue.settings import DecoderSettings


async def test_a_slice_whose_child_is_killed_is_processed_by_another_child(tmp_path: Path) -> None:
    async with opened(tmp_path, workers=2) as queue:
        others = [queue.submit(task(str(number), "other")) for number in range(20)]
        await asyncio.gather(*others)
        first, second = children()
        first.suspend()  # The suspended child gets one of the slices, and cannot finish it before it is killed.
        slices = [queue.submit(moderate("1")), queue.submit(moderate("2", "other"))]
        await until(lambda: queue.running() == 2, pause=0)
        first.kill()
        results = await asyncio.gather(*slices)
        assert [result.width for result in results] == [1024, 1024]
        assert queue.deaths("crashed") == 1
        assert alive(second)
        assert len(list(queue.media.folder.glob("*.jpg"))) == 22


async def test_a_slice_whose_child_dies_each_time_fails_as_crashed(tmp_path: Path) -> None:
    async with opened(tmp_path) as queue:
        await queue.submit(task("0"))
        doomed, next = queue.submit(endless("doomed")), queue.submit(task("next"))

        def killed() -> bool:
            kill_all([] if doomed.done() else children())
            return doomed.done()

        await until(killed)
        error = await error_of(doomed)
        assert (error.code, error.temporary) == ("crashed", False)
        assert "3 times" in error.message
        await next
        assert queue.deaths("crashed") >= 3
        assert queue.ready()


async def test_a_slice_that_takes_too_long_fails_and_its_child_is_replaced(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout=2) as queue:
        await until(children)
        (child,) = children()
        error = await error_of(queue.submit(endless()))
        assert (error.code, "2 s (slice_timeout)" in error.message) == ("timeout", True)
        assert queue.deaths("timeout") == 1
        await until(lambda: not alive(child))
        result = None
        while not result:
            with suppress(WorkError):  # On a busy machine, this slice may exceed the timeout too.
                result = await queue.submit(task("1"))


async def test_worker_threads_are_daemons_with_names(tmp_path: Path) -> None:
    async with opened(tmp_path, "thread", workers=2) as queue:
        await queue.submit(task("0"))
        threads = {thread.name: thread.daemon for thread in threading.enumerate()}
        assert threads.items() >= {("sluice-worker-0", True), ("sluice-worker-1", True)}


@pytest.mark.parametrize("end", ["timeout", "cancelled"])
async def test_a_slice_in_a_thread_ends_immediately_and_its_result_is_deleted(tmp_path: Path, end: str) -> None:
    async with opened(tmp_path, "thread", workers=2, timeout=0.2 if end == "timeout" else 100) as queue:
        with held(queue):
            stuck = queue.submit(task("1"))
            await begun(queue)
            if end == "cancelled":
                queue.cancel("s", id="1")
            assert (await error_of(stuck)).code == end
        result = None
        while not result:
            with suppress(WorkError):  # On a busy machine, the slice may take longer than the timeout.
                result = await queue.submit(task("1"))
        await until(lambda: queue.worked() >= 2)
        await until(lambda: [file.name for file in queue.media.folder.iterdir()] == [result.name])


async def test_a_cancelled_slice_that_is_stuck_has_its_child_killed(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout=1000) as queue, asyncio.timeout(60):
        await queue.submit(task("0"))
        (child,) = children()
        child.suspend()
        stuck = queue.submit(task("stuck", "stuck"))
        await begun(queue)
        queue.cancel("stuck")
        assert (await error_of(stuck)).code == "cancelled"
        await queue.submit(task("1"))
        await until(lambda: not alive(child))
        assert queue.deaths("cancelled") == 1


async def test_work_continues_when_the_forkserver_is_killed_and_no_process_remains(tmp_path: Path) -> None:
    async with opened(tmp_path) as queue:
        await queue.submit(task("0"))
        old, (child,) = forkserver(), children()
        old.kill()
        await until(lambda: not alive(old))
        await queue.submit(task("1"))
        child.kill()
        await queue.submit(task("2"))
        processes = [forkserver(), *children()]
        assert old not in processes
        await queue.close(1)
        await until(lambda: not any(alive(each) for each in [child, *processes]))


async def test_a_picture_that_needs_too_much_memory_is_refused_and_the_next_one_is_processed(tmp_path: Path) -> None:
    async with opened(tmp_path, memory=420 << 20) as queue:
        await queue.submit(task("0"))
        for suffix in (".jpg", ".png"):
            huge = encoded(np.zeros((7000, 7000, 3), np.uint8), suffix)
            error = await error_of(queue.submit(task(suffix, payload=huge)))
            assert (error.code, error.temporary) == ("too_many_pixels", False)
            assert "420 MiB" in error.message
            await queue.submit(task(f"after {suffix}"))


async def test_a_worker_that_gets_no_child_fails_its_slice_and_continues(tmp_path: Path) -> None:
    async with opened(tmp_path) as queue:
        await queue.submit(task("0"))
        (child,) = children()
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        child.kill()
        await until(lambda: not alive(child))
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            error = await error_of(queue.submit(task("1")))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert (error.code, error.temporary) == ("internal", True)
        await queue.submit(task("2"))


async def test_children_do_not_get_the_environment_of_the_server(tmp_path: Path) -> None:
    os.environ["SLUICE_JWT_SECRET"] = "a secret that no decoder needs to know"
    try:
        async with opened(tmp_path) as queue:
            await queue.submit(task("0"))
            for process in (forkserver(), *children()):
                environment = process.environ()
                assert not [name for name in environment if name.startswith("SLUICE_")]
                assert environment["OPENCV_IO_MAX_IMAGE_PIXELS"] == "50000000"
    finally:
        del os.environ["SLUICE_JWT_SECRET"]


async def test_a_child_has_no_file_or_socket_of_the_server_or_of_another_child(tmp_path: Path) -> None:
    async with opened(tmp_path, workers=3) as queue:
        await asyncio.gather(*(queue.submit(task(str(number))) for number in range(30)))
        await until(lambda: len(children()) == 3)
        for child in children():
            held = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
            assert len([name for name in held if name.startswith("socket:")]) == 1


async def test_the_pipe_carries_the_largest_payload_and_the_largest_answer(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (2000, 2000), dtype=np.uint8)
    async with opened(tmp_path) as queue:
        payload = encoded(noise, ".png") + bytes(12 << 20)
        result = await queue.submit(task("1", payload=memoryview(payload), deliver="inline"))
        assert len(result.payload) > 4_000_000


def test_the_settings_of_a_child_are_encoded_and_decoded_without_change() -> None:
    images = ImageLimits(max_pixels=7, formats=("png",))
    config = ChildConfig.of(DecoderSettings(slice_timeout=2.5), images, "file:/somewhere")
    assert ChildConfig.decode(config.encode()) == config
