"""Uploads. An accepted file is stored completely and with its type. A refused file leaves nothing in the store. Sizes
and numbers are limited.
"""

import asyncio
import struct
from pathlib import Path

import pytest

from tests.support import queues
from tests.support.films import film, sound
from tests.support.pictures import animated, animated_gif, claiming, decoded, encoded, oriented, photograph, small, tall
from tests.support.running import full_disk, until
from tests.support.uploads import HOUR, age, metrics_of, names, opened, refused, send
from works.errors import WorkError

FILES = {
    "image/jpeg": encoded(photograph()),
    "image/png": encoded(photograph(), ".png"),
    "image/gif": animated_gif(),
    "image/webp": encoded(photograph(), ".webp"),
    "audio/mpeg": sound(".mp3"),
    "audio/ogg": sound(".ogg"),
    "audio/wav": sound(".wav"),
    "audio/mp4": sound(".m4a"),
    "audio/flac": sound(".flac"),
    "video/mp4": film(".mp4"),
    "video/webm": film(".webm"),
}


@pytest.mark.parametrize("type", FILES)
async def test_an_upload_is_stored_byte_for_byte_and_described_with_its_type(tmp_path: Path, type: str) -> None:
    async with opened(tmp_path) as uploads:
        described = (await send(uploads, FILES[type])).as_dict("https://here")
        assert (uploads.place / described["url"].removeprefix("https://here/upload/")).read_bytes() == FILES[type]
        assert (described["type"], described["kind"], described["size"]) == (
            type,
            type.partition("/")[0],
            len(FILES[type]),
        )
        assert ("width" in described) == ("height" in described) == (described["kind"] == "image")
        assert ("thumbnail" in described) == (described["kind"] == "image" and type != "image/gif")
        assert len(names(uploads)) == (3 if "thumbnail" in described else 2)


@pytest.mark.parametrize(("size", "thumbnail"), [((1200, 800), (512, 341)), ((300, 2000), (77, 512)), ((60, 40),) * 2])
async def test_a_thumbnail_fits_into_512_pixels_and_is_never_larger_than_the_picture(
    tmp_path: Path, size: tuple[int, int], thumbnail: tuple[int, int]
) -> None:
    async with opened(tmp_path) as uploads:
        sent = await send(uploads, encoded(tall()[: size[1]].repeat(2, 1)[:, : size[0]], quality=30))
        assert (sent.width, sent.height) == size
        assert decoded((uploads.place / sent.thumbnail).read_bytes()).shape[1::-1] == thumbnail


async def test_a_rotated_picture_is_described_as_displayed(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        sent = await send(uploads, oriented(photograph()[:100, :200], 6))
        assert (sent.width, sent.height) == (100, 200)
        assert decoded((uploads.place / sent.thumbnail).read_bytes()).shape[:2] == (200, 100)


VAST = animated_gif()[:6] + struct.pack("<HH", 60_000, 60_000) + animated_gif()[10:]
REFUSED = {
    "an empty file": (b"", "bad_message", "empty"),
    "a web page": (b"<html><script>alert(1)</script></html>", "unsupported_format", "none of these"),
    "half a picture": (encoded(photograph())[:9000], "bad_image", ""),
    "a web page with the first bytes of a JPEG": (b"\xff\xd8\xff<html>", "bad_image", ""),
    "a PNG with a header of 60,000 x 60,000 pixels": (claiming(60_000, 60_000), "too_many_pixels", "50,000,000"),
    "a GIF with a header of 60,000 x 60,000 pixels": (VAST, "too_many_pixels", "50,000,000"),
    "half a GIF": (animated_gif()[:-20], "bad_image", "GIF"),
    "an animated WebP": (animated("WEBP"), "unsupported_format", "frames"),
    "a picture larger than a slice": (encoded(photograph(), ".png") + bytes(500_000), "too_large", "max_slice_bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_refused_file_gives_an_error_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    """If the queue did not decode pictures, a truncated picture and a decompression bomb would be accepted."""
    data, code, word = REFUSED[case]
    async with opened(tmp_path, max_slice_bytes=700_000) as uploads:
        error = await refused(uploads, data)
        assert error.code == code
        assert word in error.message
        assert names(uploads) == []
        assert uploads.there.total == uploads.coming.total == 0


async def test_an_upload_can_have_upload_bytes_and_not_one_byte_more(tmp_path: Path) -> None:
    data = sound(".wav")
    async with opened(tmp_path, upload_bytes=len(data)) as uploads:
        await send(uploads, data)
        assert (await refused(uploads, data + b"x")).code == "too_large"
        with pytest.raises(WorkError, match="upload_bytes"):
            uploads.begin("alice", len(data) + 1)
        assert len(names(uploads)) == 2


async def test_quotas_of_a_user_and_of_all_users_are_free_again_after_a_deletion(tmp_path: Path) -> None:
    data = sound(".wav")
    most = {"upload_bytes_per_user": 2 * len(data), "upload_bytes_total": 3 * len(data)}
    async with opened(tmp_path, **most) as uploads:
        first = await send(uploads, data)
        await send(uploads, data)
        error = await refused(uploads, data)
        assert (error.code, error.temporary) == ("busy", True)
        assert "upload_bytes_per_user" in error.message
        await send(uploads, data, "bert")
        assert "upload_bytes_total" in (await refused(uploads, data, "bert")).message
        age(uploads, first.id, HOUR + 1)
        await uploads.sweep()
        await send(uploads, data)


async def test_an_upload_in_progress_counts_until_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path, upload_bytes_per_user=1000, uploads_per_user=2) as uploads:
        one, two = uploads.begin("alice"), uploads.begin("alice")
        with pytest.raises(WorkError, match="uploads_per_user"):
            uploads.begin("alice")
        await uploads.begin("bert").discard()
        await one.write(bytes(600))
        with pytest.raises(WorkError, match="upload_bytes_per_user"):
            await two.write(bytes(600))
        for each in (one, one, two, uploads.begin("carl", 1000)):
            await each.discard()
        assert not uploads.coming.held
        await uploads.begin("alice", 1000).discard()


async def test_an_upload_that_stops_halfway_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        upload = uploads.begin("alice")
        await upload.write(bytes(300_000))
        assert names(uploads) == [f".{upload.id}.part"]
        await upload.discard()
        assert names(uploads) == []
        for more in (upload.write(b"x"), upload.finish()):
            with pytest.raises(WorkError, match="closed the connection"):
                await more
        assert not uploads.coming.held


async def test_an_upload_whose_client_leaves_during_the_check_leaves_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        with queues.held(uploads.queue):
            plug = uploads.queue.submit(queues.task("plug"))
            await until(lambda: metrics_of(uploads).get_sample_value("sluice_running") == 1)
            upload = uploads.begin("alice")
            await upload.write(small())
            finishing = asyncio.create_task(upload.finish())
            await until(lambda: metrics_of(uploads).get_sample_value("sluice_queue_depth") == 1)
            await upload.discard()
            with pytest.raises(WorkError, match="on request"):
                await finishing
            assert names(uploads) == []
        await plug


async def test_a_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    """The disk is full at the first byte, in the middle of the body, or only for the thumbnail."""
    picture = encoded(photograph()[:300, :300], quality=5)
    async with opened(tmp_path) as uploads:
        for most, data in ((0, sound(".wav")), (300_000, bytes(900_000)), (len(picture), picture)):
            with full_disk(most):
                error = await refused(uploads, data)
            assert (error.code, error.temporary) == ("internal", True)
            assert "File too large" in error.message
            assert names(uploads) == []
        await send(uploads, picture)
