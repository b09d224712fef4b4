"""The job kind batch: real photographs in a real queue. The results are opened and checked."""

import asyncio
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.pictures import encoded, photograph, scan
from tests.support.queues import kill_all, running_module
from tests.support.recording import recording
from tests.support.running import full_disk, until
from tests.support.zips import zipped
from works.errors import WorkError
from works.imaging.image_header import read_header
from works.imaging.task import Result, Task
from works.jobs import BadParams, JobFailed


def size(data: bytes) -> tuple[int, int]:
    return read_header(data).upright


def scans(folder: Path, **files: bytes) -> None:
    """Writes files into the folder ``scans``. In a name, __ is a slash and _ is a dot."""
    for name, data in files.items():
        path = folder / "scans" / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


async def test_results_of_a_folder_have_the_names_of_their_sources(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        scans(
            tmp_path,
            p10_jpg=encoded(photograph()),
            p2_png=encoded(scan(), ".png"),
            sub__c_JPEG=encoded(photograph("coffee.png")),
        )
        result = await job.do("batch", folder="scans", action="grayscale", zoom=0.5)
        found = job.unzipped(result)
        assert list(found) == ["p2.png", "p10.jpg", "sub/c.JPEG"], "as people sort them"
        assert [size(data) for data in found.values()] == [(192, 95), (256, 256), (300, 200)]
        gray = cv2.imdecode(np.frombuffer(found["p10.jpg"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert gray is not None
        assert gray.ndim == 2
        assert (result["pictures"], result["done"], result["failed"]) == (3, 3, 0)
        assert {name: state["state"] for name, state in job.states.items()} == dict.fromkeys(
            ("p2.png", "p10.jpg", "sub/c.JPEG"), "ok"
        )
        assert ("target", "p2.png", "not_started") in job.reports
        assert job.reports[-2:] == [("progress", 3, 0, 3), ("stage", "packing")]


async def test_an_uploaded_zip_is_processed_without_unpacking_it(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        sent = zipped({"a/1.jpg": encoded(photograph()), "a/readme.txt": b"words", "__MACOSX/a/._1.jpg": b"x"})
        result = await job.do("batch", zip=await job.upload(sent), fit="100x100", format="webp")
        assert {name: size(data) for name, data in job.unzipped(result).items()} == {"a/1.webp": (100, 100)}
        assert ("log", "2 files were skipped, because their names are not those of pictures") in job.reports


async def test_uploads_are_processed_and_kept_as_long_as_those_of_messages(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        ids = [await job.upload(encoded(photograph(name))) for name in ("astronaut.png", "coffee.png")]
        result = await job.do("batch", uploads=ids)
        assert list(job.unzipped(result)) == sorted((f"{id}.jpg" for id in ids), key=lambda name: ids.index(name[:32]))
        assert all((tmp_path / "uploads" / f"{id}.kept").exists() for id in ids)


async def test_results_of_uploads_have_unique_names_from_their_users(tmp_path: Path) -> None:
    called = {
        "beach.jpg": "beach.jpg",
        "C:\\Pictures\\BEACH.JPG": "BEACH-2.JPG",
        "../../up/beach.jpg": "beach-3.jpg",
        "": "",
        "words": "words.jpg",
        "..": "",
        "a\0\u202eb.png": "a\ufffd\ufffdb.jpg",
        "C:": "",
        "\N{CYRILLIC SMALL LETTER YA}.jpg": "\N{CYRILLIC SMALL LETTER YA}.jpg",
    }
    async with recording(tmp_path) as job:
        ids = [await job.upload(encoded(photograph()), called=name) for name in called]
        expected = [name or f"{id}.jpg" for id, name in zip(ids, called.values(), strict=True)]
        result = await job.do("batch", uploads=ids, sheet=False)
        assert list(job.unzipped(result)) == expected
        assert [row["result"] for row in job.rows(result)] == expected
        job.only = frozenset({"BEACH-2.JPG"})
        assert list(job.unzipped(await job.do("batch", uploads=ids, sheet=False))) == ["BEACH-2.JPG"]
        same = [await job.upload(encoded(photograph()), called="x" * 300 + ".jpg") for _ in range(3)]
        job.only = None
        await job.do("batch", uploads=same, sheet=False)
        assert all(len(name) <= 200 for name in job.states)


async def test_another_users_uploads_are_not_found(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        theirs = await job.upload(encoded(photograph()), "bob")
        for source in ({"uploads": [theirs]}, {"zip": theirs}, {"zip": "0" * 32}):
            assert (await job.failure("batch", **source)).code == "not_found"


async def test_only_configured_folders_are_read_and_links_are_not_followed(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        secret = tmp_path / "secret.jpg"
        secret.write_bytes(encoded(photograph()))
        scans(tmp_path, own_jpg=encoded(photograph()), _hidden_jpg=encoded(photograph()))
        (tmp_path / "scans/link.jpg").symlink_to(secret)
        (tmp_path / "scans/linked").symlink_to(tmp_path)
        for name in ("secret", "../scans", str(tmp_path), "scans/..", ""):
            with pytest.raises((WorkError, BadParams)):
                await job.do("batch", folder=name)
        assert "use scans" in (await job.failure("batch", folder="other")).message
        result = await job.do("batch", folder="scans", match="*")
        assert (list(job.unzipped(result)), result["pictures"]) == (["own.jpg"], 1)


async def test_results_get_names_that_are_unique_on_every_operating_system(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        picture = encoded(photograph())
        scans(tmp_path, a_jpg=picture, A_jpg=picture, A_png=encoded(scan(), ".png"), a_bmp=picture)
        result = await job.do("batch", folder="scans", format="webp")
        names = list(job.unzipped(result))
        assert len({name.casefold() for name in names}) == 4
        assert sorted(row["result"] for row in job.rows(result)) == sorted(names)


async def test_a_failed_picture_is_reported_with_its_reason_and_the_others_continue(tmp_path: Path) -> None:
    async with recording(tmp_path, max_slice_bytes=200_000) as job:
        whole = encoded(photograph())
        scans(
            tmp_path, a_jpg=whole, b_jpg=whole[:5000], c_gif=b"GIF89a" + bytes(100), d_jpg=bytes(200_001), e_jpg=whole
        )
        result = await job.do("batch", folder="scans")
        assert (result["done"], result["failed"]) == (5, 3)
        assert {name: state.get("code") for name, state in job.states.items()} == {
            "a.jpg": None,
            "b.jpg": "bad_image",
            "c.gif": "unsupported_format",
            "d.jpg": "too_large",
            "e.jpg": None,
        }
        assert "200,000 bytes" in job.states["d.jpg"]["message"]
        assert list(job.unzipped(result)) == ["a.jpg", "e.jpg"]
        assert [row.get("code") for row in job.rows(result)] == [
            None,
            "bad_image",
            "unsupported_format",
            "too_large",
            None,
        ]


async def test_a_batch_with_too_many_failures_stops_and_keeps_its_results(tmp_path: Path) -> None:
    async with recording(tmp_path, job_tasks=1) as job:
        scans(tmp_path, a1_jpg=encoded(photograph()), **{f"b{n}_jpg": b"no picture" for n in range(20)})
        failure = await job.failure("batch", folder="scans", max_failed=2)
        assert isinstance(failure, JobFailed)
        assert (failure.code, failure.message) == (
            "too_many_failed",
            "stopped: more than 2 pictures failed (max_failed)",
        )
        assert failure.result
        assert list(job.unzipped(failure.result)) == ["a1.jpg"]
        assert sum(state["state"] == "not_started" for state in job.states.values()) == 17


async def test_a_retry_processes_only_the_requested_pictures(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        scans(tmp_path, a_jpg=encoded(photograph()), b_jpg=encoded(photograph()))
        job.only = frozenset({"b.jpg", "gone.jpg"})
        result = await job.do("batch", folder="scans")
        assert list(job.unzipped(result)) == ["b.jpg"]
        assert job.states["gone.jpg"] == {
            "state": "failed",
            "code": "not_found",
            "message": "the picture no longer exists",
        }
        assert "a.jpg" not in job.states


async def test_the_findings_are_in_the_table_and_pictures_may_be_left_out(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        scans(tmp_path, a_jpg=encoded(photograph()))
        result = await job.do("batch", folder="scans", action="faces", pictures=False)
        assert [file["name"] for file in result["files"]] == ["table.csv", "table.json", "sheet-1.jpg"]
        (row,), (cells,) = job.rows(result), job.cells(result)
        assert row["found"] == len(row["data"]["faces"]) > 0
        assert (cells["found"], cells["picture"], cells["state"]) == (str(row["found"]), "a.jpg", "ok")


async def test_the_sheet_shows_every_picture_in_order_and_in_pages(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        flat = {n: np.full((40, 60, 3), (n * 4, 0, 255 - n * 4), np.uint8) for n in range(50)}
        scans(tmp_path, **{f"p{n}_png": encoded(image, ".png") for n, image in flat.items()}, x_jpg=b"none")
        result = await job.do("batch", folder="scans")
        pages = [cv2.imdecode(np.frombuffer(job.file(result, f"sheet-{n}.jpg"), np.uint8), 1) for n in (1, 2)]
        assert [page.shape[1] for page in pages if page is not None] == [8 * 176, 3 * 176]
        for n, image in flat.items():
            page, place = pages[n // 48], n % 48
            assert page is not None
            seen = page[place // 8 * 210 + 88, place % 8 * 176 + 88].astype(int)
            assert np.abs(seen - image[0, 0].astype(int)).max() < 12, n


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"folder": "scans", "action": "explode"}, "action 'explode' is unknown"),
        ({"folder": "scans", "action": "blur", "options": {"radius": "much"}}, "radius"),
        ({}, "set one of folder, zip and uploads"),
        ({"folder": "scans", "zip": "x"}, "set one of folder, zip and uploads"),
        ({"uploads": ["x"] * 1801}, "List should have at most 1800 items"),
        ({"folder": "scans", "pictures": False}, "leave pictures on"),
        ({"folder": "scans", "fit": "big"}, "fit"),
        ({"folder": "scans", "path": "/etc"}, "path"),
    ],
)
async def test_invalid_parameters_are_refused_before_the_start(
    tmp_path: Path, params: dict[str, object], said: str
) -> None:
    async with recording(tmp_path) as job:
        failure = await job.failure("batch", **params)
        assert isinstance(failure, BadParams)
        assert said in str(failure.errors)
        assert job.reports == []


async def test_only_pictures_that_are_being_processed_are_in_memory(tmp_path: Path) -> None:
    async with recording(tmp_path, job_tasks=3) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(30)})
        await job.do("batch", folder="scans", sheet=False)
        assert job.most_in_flight <= 3


async def test_results_beyond_the_limit_end_the_batch_and_are_kept(tmp_path: Path) -> None:
    async with recording(tmp_path, batch_bytes=100_000, job_tasks=1) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(10)})
        failure = await job.failure("batch", folder="scans", sheet=False)
        assert (failure.code, "(batch_bytes)" in failure.message) == ("too_large", True)


async def test_a_full_disk_ends_the_job_and_is_reported(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(10)})
        with full_disk(200_000):
            failure = await job.failure("batch", folder="scans", sheet=False)
        assert isinstance(failure, WorkError)
        assert (failure.code, failure.temporary) == ("internal", True)
        assert "the results cannot be written" in failure.message
        assert not any((tmp_path / "media").iterdir())


async def test_a_failed_contact_sheet_does_not_end_the_batch(tmp_path: Path) -> None:
    async with recording(tmp_path, job_tasks=1) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(6)})
        run = job.run

        async def killing(task: Task) -> Result:
            if task.id == "3":
                (forkserver,) = running_module("works.jobs.helper_child")
                kill_all(forkserver.children())
            return await run(task)

        job.run = killing  # type: ignore[method-assign]
        result = await job.do("batch", folder="scans")
        assert len(job.unzipped(result)) == 6
        (note,) = result["notes"]
        assert note.startswith("the contact sheet ends before picture ")


async def test_a_visible_slice_overtakes_a_batch(tmp_path: Path) -> None:
    async with recording(tmp_path, workers=1, job_tasks=4) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(12)})
        order: list[str] = []
        run = job.run

        async def noted(task: Task) -> object:
            result = await run(task)
            order.append("batch")
            if len(order) == 3:  # three more pictures of the batch are now in the queue before these
                for n in range(3):
                    seen = job.queue.submit(Task("reader", str(n), encoded(photograph())))
                    seen.add_done_callback(lambda _: order.append("slice"))
            return result

        job.run = noted  # type: ignore[assignment, method-assign]
        await job.do("batch", folder="scans", sheet=False)
        assert order.count("batch") == 12
        first = order.index("slice")
        assert order[first : first + 3] == ["slice"] * 3, order
        assert first <= 4, "only what was being worked came before"


async def test_a_cancelled_batch_leaves_no_tasks_and_no_files(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        scans(tmp_path, **{f"p{n}_jpg": encoded(photograph()) for n in range(40)})
        begun = asyncio.create_task(job.do("batch", folder="scans", action="blur", options={"radius": 50}))
        await until(lambda: any(report[0] == "progress" and report[1] for report in job.reports))
        begun.cancel()
        with pytest.raises(asyncio.CancelledError):
            await begun
        assert job.in_flight == 0
        assert not any((tmp_path / "media").iterdir())
        assert asyncio.all_tasks() - {asyncio.current_task()} == set(job.queue._tasks)
