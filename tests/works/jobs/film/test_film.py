"""The job kind film: real clips in a real queue. The resulting film is decoded again, frame by frame."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.clips import clip, frames_of, live, number_of, numbered
from tests.support.recording import Recording, recording
from tests.support.running import until
from works.imaging.pixels import Image
from works.imaging.task import Result, Task
from works.jobs import BadParams, JobFailed


def made(job: Recording, result: dict[str, Any], tmp_path: Path) -> tuple[list[Image], float]:
    path = tmp_path / "made.webm"
    path.write_bytes(job.file(result, "film.webm"))
    return frames_of(path)


async def test_every_frame_is_processed_and_stays_in_its_place(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.mp4", 60, fps=30000 / 1001, sound=True)
        result = await job.do("film", folder="scans", file="a.mp4", action="grayscale")
        frames, fps = made(job, result, tmp_path)
        assert [number_of(frame) for frame in frames] == list(range(60))
        assert fps == pytest.approx(29.97, abs=0.01)
        assert all(np.ptp(frame, axis=2).mean() < 4 for frame in frames), "gray"
        assert (result["frames"], result["failed"], result["notes"], result["sound"]) == (60, 0, [], False)
        assert job.reports[-2] == ("progress", 60, 0, 60)


async def test_an_upload_is_processed_and_its_lifetime_restarted(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        sent = await job.upload(clip(tmp_path / "a.webm", 20).read_bytes())
        result = await job.do("film", upload=sent)
        assert [number_of(frame) for frame in made(job, result, tmp_path)[0]] == list(range(20))
        assert (tmp_path / "uploads" / f"{sent}.kept").exists()
        theirs = await job.upload(clip(tmp_path / "b.webm", 2).read_bytes(), "bob")
        assert (await job.failure("film", upload=theirs)).code == "not_found"


async def test_frames_wait_for_earlier_ones_and_no_more_are_started(tmp_path: Path) -> None:
    async with recording(tmp_path, job_tasks=4) as job:
        clip(tmp_path / "scans/a.webm", 30)
        run, others, ready = job.run, asyncio.Event(), list[str]()

        async def late(task: Task) -> Result:
            result = await run(task)
            ready.append(task.id)
            if len(ready) == 4:
                others.set()
            if task.id == "0":
                await others.wait()
                assert len(ready) == 4, "no more than four are held"
            return result

        job.run = late  # type: ignore[method-assign]
        result = await job.do("film", folder="scans", file="a.webm")
        assert [number_of(frame) for frame in made(job, result, tmp_path)[0]] == list(range(30))
        assert job.most_in_flight <= 4


async def test_a_part_of_a_film_with_every_nth_frame_and_a_smaller_width(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.mp4", 100)
        asked = {"every": 3, "start": 1, "end": 3, "width": 161, "quality": "lossless"}
        result = await job.do("film", folder="scans", file="a.mp4", **asked)
        frames, fps = made(job, result, tmp_path)
        assert [number_of(frame, 0.5) for frame in frames] == list(range(25, 75, 3))
        assert (frames[0].shape[:2], result["width"], result["height"]) == ((120, 160), 160, 120)
        assert fps == pytest.approx(25 / 3, abs=0.01)
        assert ("progress", 17, 0, 17) in job.reports
        await job.failure("film", folder="scans", file="a.mp4", start=4)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
async def test_an_incomplete_film_gives_its_frames_and_a_note(tmp_path: Path, suffix: str) -> None:
    async with recording(tmp_path) as job:
        whole = clip(tmp_path / f"a{suffix}", 100).read_bytes()
        result = await job.do("film", upload=await job.upload(whole[: len(whole) * 6 // 10]))
        numbers = [number_of(frame) for frame in made(job, result, tmp_path)[0]]
        assert 20 < len(numbers) < 90
        assert numbers == list(range(len(numbers)))
        (note,) = result["notes"]
        assert note.startswith("the film ends early: of 100 frames, ")


async def test_a_file_that_is_not_a_video_is_refused_with_a_clear_error(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/real.mp4", 5)
        (tmp_path / "scans/noise.mp4").write_bytes(bytes(range(256)) * 100)
        (tmp_path / "scans/empty.mp4").write_bytes(b"")
        # Playlists, with which FFmpeg would read other files, whatever their names are.
        hls = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n"
        (tmp_path / "scans/hls.mp4").write_text(hls)
        (tmp_path / "scans/concat.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
        for name in ("noise", "empty", "hls", "concat"):
            failure = await job.failure("film", folder="scans", file=f"{name}.mp4")
            assert (failure.code, "not a readable film" in failure.message) == ("unsupported_format", True), name
        assert not any((tmp_path / "media").iterdir())


async def test_only_films_in_configured_folders_are_read_and_links_are_not_followed(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        secret = clip(tmp_path / "secret.mp4", 2)
        (tmp_path / "scans/link.mp4").symlink_to(secret)
        (tmp_path / "scans/up").symlink_to(tmp_path)
        for name in ("link.mp4", "up/secret.mp4", "../secret.mp4", str(secret), ".", "a\0b", "a" * 999):
            assert (await job.failure("film", folder="scans", file=name)).code == "not_found", name


async def test_films_beyond_a_limit_are_refused_with_the_setting(tmp_path: Path) -> None:
    async with recording(tmp_path, film_frames=50, film_pixels=320 * 240, film_bytes=40_000) as job:
        clip(tmp_path / "scans/long.webm", 60)
        clip(tmp_path / "scans/large.webm", 2, size=(322, 240))
        for name, code, setting in (("long", "too_large", "film_frames"), ("large", "too_many_pixels", "film_pixels")):
            failure = await job.failure("film", folder="scans", file=f"{name}.webm")
            assert (failure.code, f"({setting})" in failure.message) == (code, True)
        failure = await job.failure("film", folder="scans", file="long.webm", end=2)
        assert (failure.code, "(film_bytes)" in failure.message) == ("too_large", True)
        assert (await job.do("film", folder="scans", file="long.webm", every=6, width=64))["frames"] == 10


async def test_a_film_of_unknown_length_is_cut_at_the_limit(tmp_path: Path) -> None:
    async with recording(tmp_path, film_frames=50) as job:
        live(clip(tmp_path / "a.webm", 60), tmp_path / "scans/live.webm")
        result = await job.do("film", folder="scans", file="live.webm")
        assert (result["frames"], result["notes"]) == (50, ["cut after 50 frames (film_frames)"])
        assert ("progress", 50, 0, None) in job.reports


async def test_the_findings_are_in_a_table_with_a_row_for_each_frame(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.webm", 6)
        result = await job.do("film", folder="scans", file="a.webm", action="faces")
        rows = job.rows(result)
        assert [(row["frame"], row["seconds"], row["state"]) for row in rows] == [(n, n / 25, "ok") for n in range(6)]
        assert [row["found"] for row in rows] == [len(row["data"]["faces"]) for row in rows]


async def test_a_failed_frame_is_replaced_by_the_one_before_up_to_the_limit(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.webm", 10)
        run = job.run

        async def failing(task: Task) -> Result:
            broken = Task("", task.id, task.payload[:500]) if task.id in ("0", "4", "5") else task
            return await run(broken)

        job.run = failing  # type: ignore[method-assign]
        result = await job.do("film", folder="scans", file="a.webm", max_failed=3)
        assert [number_of(frame) for frame in made(job, result, tmp_path)[0]] == [1, 1, 2, 3, 3, 3, 6, 7, 8, 9]
        assert result["failed"] == 3
        failure = await job.failure("film", folder="scans", file="a.webm", max_failed=2)
        assert isinstance(failure, JobFailed)
        assert failure.code == "too_many_failed"
        assert (await job.failure("film", folder="scans", file="a.webm")).code == "bad_image"


async def test_a_cancelled_film_leaves_no_files(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        clip(tmp_path / "scans/a.webm", 200)
        begun = asyncio.create_task(
            job.do("film", folder="scans", file="a.webm", action="blur", options={"radius": 50})
        )
        await until(lambda: any(report[0] == "progress" and report[1] > 2 for report in job.reports))
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        assert job.in_flight == 0
        assert not any((tmp_path / "media").iterdir())
        assert asyncio.all_tasks() - {asyncio.current_task()} == set(job.queue._tasks)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({}, "set either upload, or folder and file"),
        ({"folder": "scans"}, "set either upload, or folder and file"),
        ({"upload": "x", "folder": "scans", "file": "a"}, "set either upload"),
        ({"upload": "x", "start": 5, "end": 5}, "must be greater than start"),
        ({"upload": "x", "every": 0}, "every"),
        ({"upload": "x", "every": True}, "every"),
        ({"upload": "x", "max_failed": False}, "max_failed"),
        ({"upload": "x", "action": "explode"}, "action 'explode' is unknown"),
    ],
)
async def test_invalid_parameters_are_refused(tmp_path: Path, params: dict[str, object], said: str) -> None:
    async with recording(tmp_path) as job:
        failure = await job.failure("film", **params)
        assert isinstance(failure, BadParams)
        assert said in json.dumps(failure.errors)


def test_the_numbers_in_the_clips_can_be_read() -> None:
    assert [number_of(numbered(n)) for n in (0, 1, 77, 4095)] == [0, 1, 77, 4095]
