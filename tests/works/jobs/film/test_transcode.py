"""The processes that read and write films: they have limits, are killed when they hang, and are gone at the end."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.support.clips import clip, frames_of, number_of, numbered
from tests.support.pictures import encoded
from tests.support.queues import running_module
from tests.support.recording import Recording, recording
from tests.support.running import alive, full_disk, until
from works.errors import WorkError
from works.imaging.task import Result, Task
from works.jobs.helpers import Helper, HelperProcesses
from works.jobs.settings import HelperSettings


def processes() -> list[psutil.Process]:
    """Returns all helper processes: the forkservers and their children."""
    roots = running_module("works.jobs.helper_child")
    return [each for root in roots for each in [root, *root.children()] if alive(each)]


async def write_frames(helper: Helper, path: Path, frames: int, size: tuple[int, int] = (320, 240)) -> None:
    for n in range(frames):
        await helper.call("write", encoded(numbered(n, size), quality=95), path=str(path), fps=25)


async def call_refused(helper: Helper, call: str, **members: object) -> WorkError:
    with pytest.raises(WorkError) as caught:
        await helper.call(call, **members)
    return caught.value


def reading(path: Path) -> dict[str, object]:
    return {
        "path": str(path),
        "max_pixels": 9_000_000,
        "start": 0,
        "end": None,
        "every": 1,
        "width": None,
        "suffix": ".jpg",
    }


async def all_of(reader: Helper, film: Path) -> None:
    await reader.call("open", **reading(film) | {"max_pixels": 1 << 30})
    while "end" not in (await reader.call("next"))[0]:
        pass


async def test_leaving_helper_processes_ends_all_processes(tmp_path: Path) -> None:
    async with HelperProcesses(HelperSettings()) as helpers:
        await write_frames(helpers.start("writer"), tmp_path / "a.webm", 1)
        held = processes()
        assert len(held) == 2
        assert all(process.nice() == min(psutil.Process().nice() + 5, 19) for process in held)
    await until(lambda: not any(map(alive, held)))


@pytest.mark.chaos
async def test_only_the_process_that_hangs_is_killed(tmp_path: Path) -> None:
    async with HelperProcesses(HelperSettings(studio_timeout=5)) as helpers:
        writer, reader = helpers.start("writer"), helpers.start("reader")
        film = clip(tmp_path / "a.webm", 2)
        await until(lambda: len(processes()) == 3)
        first = _forked()[0]
        first.send_signal(signal.SIGSTOP)
        error = await call_refused(writer, "finish")
        assert (error.code, "(studio_timeout)" in error.message) == ("timeout", True)
        await until(lambda: not alive(first))
        assert (await call_refused(writer, "finish")).code == "crashed"
        with suppress(WorkError):  # five seconds may be too short on a busy machine
            answer, _ = await reader.call("open", **reading(film))
            assert answer["frames"] == 2


@pytest.mark.chaos
async def test_a_film_larger_than_the_memory_limit_is_an_error(tmp_path: Path) -> None:
    film, small = clip(tmp_path / "large.webm", 1, size=(4096, 4096)), clip(tmp_path / "small.webm", 2)
    async with HelperProcesses(HelperSettings()) as helpers:
        await all_of(helpers.start("reader"), small)
        takes = reader().memory_info().vms
    # Less than the setting allows. The large one takes some 100 MiB more.
    tight = HelperSettings.model_construct(studio_memory=takes + (48 << 20), studio_timeout=60)
    async with HelperProcesses(tight) as helpers:
        with pytest.raises(WorkError):
            await all_of(helpers.start("reader"), film)
        await all_of(helpers.start("reader"), small)


@pytest.mark.parametrize("size", [(320, 240), (321, 241), (17, 16), (1, 1), (1921, 3)])
async def test_films_of_any_size_are_complete(tmp_path: Path, size: tuple[int, int]) -> None:
    async with HelperProcesses(HelperSettings()) as helpers:
        writer = helpers.start("writer")
        await write_frames(writer, tmp_path / "a.webm", 5, size)
        answer, _ = await writer.call("finish")
        even = max(16, size[0] & -2), max(16, size[1] & -2)
        assert answer == {"width": even[0], "height": even[1], "frames": 5}
        frames, fps = frames_of(tmp_path / "a.webm")
        assert ([frame.shape for frame in frames], fps) == ([(even[1], even[0], 3)] * 5, 25)


async def test_a_frame_of_another_size_is_fitted_into_the_film(tmp_path: Path) -> None:
    async with HelperProcesses(HelperSettings()) as helpers:
        writer = helpers.start("writer")
        for size in ((320, 240), (640, 480), (240, 480)):
            await writer.call("write", encoded(numbered(5, size), quality=95), path=str(tmp_path / "a.webm"), fps=25)
        await writer.call("finish")
        frames, _ = frames_of(tmp_path / "a.webm")
        assert number_of(frames[0]) == 5
        assert number_of(frames[1], 0.5) == 5
        assert frames[2][:, :90].mean() < 5, "black beside it"
        assert frames[2][:, 110:210].mean() > 40


@pytest.mark.chaos
async def test_a_full_disk_is_reported(tmp_path: Path) -> None:
    with full_disk(200_000):
        async with HelperProcesses(HelperSettings()) as helpers:
            writer = helpers.start("writer")
            await write_frames(writer, tmp_path / "a.webm", 60, (640, 480))
            error = await call_refused(writer, "finish")
            assert (error.code, error.temporary, "the disk may be full" in error.message) == ("internal", True, True)


@pytest.mark.chaos
async def test_after_the_death_of_a_reader_its_frames_are_kept(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.webm", 60)
        job.run = then(job, "10", lambda: reader().kill())  # type: ignore[method-assign]
        result = await job.do("film", folder="scans", file="a.webm")
        path = tmp_path / "made.webm"
        path.write_bytes(job.file(result, "film.webm"))
        numbers = [number_of(frame) for frame in frames_of(path)[0]]
        assert numbers == list(range(len(numbers)))
        assert 10 < len(numbers) < 60
        (note,) = result["notes"]
        assert note.startswith("no frame can be read after 0."), note


async def test_a_writer_that_dies_fails_the_job_at_once_and_leaves_no_files(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.webm", 30)
        job.run = then(job, "10", lambda: writer().kill())  # type: ignore[method-assign]
        failure = await job.failure("film", folder="scans", file="a.webm")
        assert failure.code == "crashed"
        assert not any((tmp_path / "media").iterdir())
        assert not processes()
        assert asyncio.all_tasks() - {asyncio.current_task()} == set(job.queue._tasks)


def then(job: Recording, id: str, do: Callable[[], None]) -> Callable[[Task], "asyncio.Future[Result]"]:
    """Runs ``run``, and calls ``more`` when the task with this id is done."""
    run = job.run

    async def noted(task: Task) -> Result:
        result = await run(task)
        if task.id == id:
            do()
        return result

    return noted  # type: ignore[return-value]


def reader() -> psutil.Process:
    return _forked()[0]


def writer() -> psutil.Process:
    return _forked()[1]


def _forked() -> list[psutil.Process]:
    """Returns them in their order of creation. Process ids start again at a low number after the highest one, which
    happens often in a run of all tests.
    """
    highest = int(Path("/proc/sys/kernel/pid_max").read_text())
    children = [each for each in processes() if each.parent() != psutil.Process()]
    return sorted(children, key=lambda each: (each.pid - each.ppid()) % highest)
