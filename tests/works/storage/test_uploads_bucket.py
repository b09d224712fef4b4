"""Uploads in a bucket. One server stores an upload and another finds it. When a request keeps an upload while a sweep
deletes it, only one of them succeeds.
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import queues
from tests.support.films import sound
from tests.support.pictures import small
from tests.support.s3 import S3, s3_in
from tests.support.uploads import HOUR, MONTH, make_uploads, refused, send, unknown
from works.errors import WorkError
from works.storage.address import StoreOptions, StoreThreads
from works.storage.bucket import Bucket
from works.storage.uploads_bucket import BucketUploads
from works.uploads import Uploads


@pytest.fixture
def url() -> str:
    """Returns a URL with a separate prefix for each test."""
    return f"s3://bucket/uploads/{secrets.token_hex(4)}"


@asynccontextmanager
async def opened(s3: S3, folder: Path, url: str, timeout: float = 60.0, **settings: Any) -> AsyncIterator[Uploads]:
    async with queues.opened(folder, "thread") as queue:
        threads = StoreThreads(4)
        yield make_uploads(queue, threads, url, folder, StoreOptions(timeout, None, s3.values), **settings)
        threads.close()
        assert os.listdir(folder / "spool") == [], "a file is left in the spool"


def store_of(uploads: Uploads) -> BucketUploads:
    assert isinstance(uploads.store, BucketUploads)
    return uploads.store


def names(s3: S3, url: str) -> set[str]:
    prefix = url.removeprefix("s3://bucket/") + "/"
    return {key.removeprefix(prefix) for key in s3.keys(prefix)}


async def test_another_server_finds_keeps_and_counts_an_upload(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as one, opened(s3, tmp_path, url) as two:
        sent, song = await send(one, small()), await send(one, sound(".mp3"))
        assert names(s3, url) == {sent.name, sent.thumbnail, f"{sent.id}.record", song.name, f"{song.id}.record"}
        assert await two.attach("alice", [sent.id, song.id]) == [sent.as_dict(), song.as_dict()]
        assert sent.id in await unknown(two, "bert", sent.id)
        await two.sweep()
        assert two.there.held.keys() == {sent.id, song.id}
        assert two.there.bytes_of("alice") == one.there.bytes_of("alice") == one.there.total


async def test_the_bucket_serves_an_upload_with_its_type_and_name(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        song = await send(uploads, sound(".mp3"))
        got = s3.get(f"{url.removeprefix('s3://bucket/')}/{song.name}")
        assert got.content == sound(".mp3")
        assert got.headers["Content-Type"] == "audio/mpeg"
        assert got.headers["Content-Disposition"] == f'inline; filename="{song.name}"'


async def test_drafts_are_deleted_after_the_grace_and_kept_uploads_after_their_ttl(
    s3: S3, tmp_path: Path, url: str
) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        draft, kept = await send(uploads, small()), await send(uploads, small())
        for _ in range(2):
            await uploads.keep("alice", [kept.id])
            for each in (draft, kept):
                s3.age(each.id, HOUR - 60)
            await uploads.sweep()
            assert {name[:32] for name in names(s3, url)} >= {kept.id}
        assert {name[:32] for name in names(s3, url)} == {kept.id}, "file, thumbnail and record are deleted together"
        s3.age(kept.id, MONTH - HOUR)
        await uploads.keep("alice", [kept.id])
        s3.age(kept.id, MONTH - HOUR)
        await uploads.sweep()
        assert await uploads.find("alice", [kept.id]) == [kept], "keeping an upload again starts its ttl again"
        s3.age(kept.id, 2 * HOUR)
        await uploads.sweep()
        assert names(s3, url) == set()
        assert uploads.there.total == 0


@pytest.mark.parametrize("before", ["a draft", "kept"])
async def test_an_upload_that_is_kept_during_a_sweep_stays(s3: S3, tmp_path: Path, url: str, before: str) -> None:
    """The sweep writes the mark ``ID.kept`` only on the condition that it has not changed. Without this condition, the
    sweep would delete an upload to which a message refers.
    """
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        if before == "kept":
            store.keep([sent.id])
        s3.age(sent.id, 2 * MONTH)

        class Late(BucketUploads):
            def _condemn(self, id: str, kept: Any) -> bool:
                store.keep([id])
                return super()._condemn(id, kept)

        late = Late(url, StoreOptions(60.0, None, s3.values), tmp_path / "spool")
        assert list(late.sweep(HOUR, MONTH, {})) == [sent.id]
        assert await uploads.find("alice", [sent.id]) == [sent]
        assert len(names(s3, url)) == 4


@pytest.mark.parametrize("when", ["before anything is deleted", "after everything is deleted"])
async def test_keeping_an_upload_during_its_deletion_fails(s3: S3, tmp_path: Path, url: str, when: str) -> None:
    """The upload is found, then a sweep starts to delete it, and then a request keeps it. That request must fail, so
    that no message is stored with a file that is being deleted.
    """
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        s3.age(sent.id, 2 * HOUR)
        if when.startswith("before"):
            assert store._condemn(sent.id, None)
        else:
            assert store.sweep(HOUR, MONTH, {}) == {}
        with pytest.raises(FileNotFoundError) as caught:
            store.keep([sent.id])
        assert str(caught.value.filename).startswith(sent.id)
        store.sweep(HOUR, MONTH, {})
        assert names(s3, url) == set(), "the failed attempt left an object"


@pytest.mark.parametrize("before", ["a draft", "kept"])
async def test_keeping_an_upload_fails_when_a_sweep_claims_it_at_that_moment(
    s3: S3, tmp_path: Path, url: str, before: str
) -> None:
    """A sweep empties the mark after a request has read it and before the request writes it. Without the condition on
    its write, the request would restore an upload that is being deleted.
    """
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        if before == "kept":
            store.keep([sent.id])
        sweeping = BucketUploads(url, StoreOptions(60.0, None, s3.values), tmp_path / "spool")
        claimed: list[bool] = []

        class Late(Bucket):
            def get(self, key: str) -> tuple[bytes, str | None]:
                try:
                    return super().get(key)
                finally:
                    if not claimed:
                        claimed.append(sweeping._condemn(sent.id, sweeping._scan()[sent.id].get("kept")))

        store.place = Late(url, StoreOptions(60.0, None, s3.values))
        with pytest.raises(FileNotFoundError):
            store.keep([sent.id])
        assert claimed == [True]
        sweeping.sweep(HOUR, MONTH, {})
        assert names(s3, url) == set()


async def test_many_keep_requests_and_two_sweeps_do_not_disturb_each_other(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        found = store._scan()[sent.id]
        for _ in range(3):
            store.keep([sent.id])
        assert not store._condemn(sent.id, found.get("kept")), (
            "the sweep claimed an upload that was kept after its scan"
        )
        s3.age(sent.id, 2 * MONTH)
        kept = store._scan()[sent.id]["kept"]
        assert store._condemn(sent.id, kept)
        assert not store._condemn(sent.id, kept), "two sweeps claimed the same upload"
        assert store.sweep(HOUR, MONTH, {}) == {}, "a later sweep did not finish the deletion"
        assert names(s3, url) == set()


async def test_the_sweep_deletes_leftovers_but_no_files_being_written_and_no_others(
    s3: S3, tmp_path: Path, url: str
) -> None:
    prefix, young, old = url.removeprefix("s3://bucket/"), "1" * 32, "2" * 32
    async with opened(s3, tmp_path, url) as uploads:
        for id in (young, old):
            for name in (f"{id}.mp4", f"{id}-small.webp", f"{id}.kept"):
                s3.put(f"{prefix}/{name}")
        s3.put(f"{prefix}/README")
        for part in (old, "README"):
            s3.age(part, 2 * HOUR)
        (tmp_path / "spool" / f".{old}.part").write_bytes(b"half")
        os.utime(tmp_path / "spool" / f".{old}.part", (0, 0))
        await uploads.sweep()
        assert names(s3, url) == {f"{young}.mp4", f"{young}-small.webp", f"{young}.kept", "README"}


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"owner": "alice", "attachment": {"size": 1}}'])
async def test_an_upload_with_a_damaged_record_is_not_found_and_stops_no_sweep(
    s3: S3, tmp_path: Path, url: str, record: bytes
) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        damaged, good = await send(uploads, small()), await send(uploads, small())
        s3.put(f"{url.removeprefix('s3://bucket/')}/{damaged.id}.record", record)
        uploads.there.drop(damaged.id)
        await uploads.sweep()
        await unknown(uploads, "alice", damaged.id)
        assert await uploads.find("alice", [good.id]) == [good]


async def test_an_error_of_the_store_is_reported_and_uploads_work_again_afterwards(tmp_path: Path, url: str) -> None:
    with s3_in(tmp_path) as own_s3:
        async with opened(own_s3, tmp_path, url) as uploads:
            sent = await send(uploads, small())
            own_s3.refuse(403, "AccessDenied")
            error = await refused(uploads, small())
            assert (error.code, error.temporary) == ("internal", True)
            assert "denies access (403)" in error.message
            with pytest.raises(WorkError, match="uploads unavailable"):
                await uploads.attach("alice", [sent.id])
            with pytest.raises(OSError, match="denies access"):
                await uploads.check()
            own_s3.refuse(0, "")
        async with opened(own_s3, tmp_path, url, timeout=0.5) as hasty:
            own_s3.pause()
            assert "did not answer" in (await refused(hasty, small())).message
            own_s3.go_on()
        async with opened(own_s3, tmp_path, url) as uploads:
            assert await uploads.attach("alice", [(await send(uploads, small())).id, sent.id])
            await uploads.check()
            uploads.there.drop(sent.id)
            assert {name[:32] for name in names(own_s3, url)} >= {sent.id}
