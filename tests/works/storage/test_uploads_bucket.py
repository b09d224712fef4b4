"""Uploads in a bucket: sent to one server, found by another, and either kept or deleted completely in any order of
events.
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
    """A prefix for this test only."""
    return f"s3://bucket/uploads/{secrets.token_hex(4)}"


@asynccontextmanager
async def opened(s3: S3, folder: Path, url: str, timeout: float = 60.0, **settings: Any) -> AsyncIterator[Uploads]:
    async with queues.opened(folder, "thread") as queue:
        threads = StoreThreads(4)
        yield make_uploads(queue, threads, url, folder, StoreOptions(timeout, None, s3.values), **settings)
        threads.close()
        assert os.listdir(folder / "spool") == [], "what was on its way has gone on or away"


def store_of(uploads: Uploads) -> BucketUploads:
    assert isinstance(uploads.store, BucketUploads)
    return uploads.store


def names(s3: S3, url: str) -> set[str]:
    prefix = url.removeprefix("s3://bucket/") + "/"
    return {key.removeprefix(prefix) for key in s3.keys(prefix)}


async def test_what_one_server_took_another_finds_keeps_and_counts(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as one, opened(s3, tmp_path, url) as two:
        sent, song = await send(one, small()), await send(one, sound(".mp3"))
        assert names(s3, url) == {sent.name, sent.thumbnail, f"{sent.id}.record", song.name, f"{song.id}.record"}
        assert await two.attach("alice", [sent.id, song.id]) == [sent.as_dict(), song.as_dict()]
        assert sent.id in await unknown(two, "bert", sent.id)
        await two.sweep()
        assert two.there.held.keys() == {sent.id, song.id}
        assert two.there.bytes_of("alice") == one.there.bytes_of("alice") == one.there.total


async def test_an_upload_is_served_as_what_it_is_from_the_bucket_itself(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        song = await send(uploads, sound(".mp3"))
        got = s3.get(f"{url.removeprefix('s3://bucket/')}/{song.name}")
        assert got.content == sound(".mp3")
        assert got.headers["Content-Type"] == "audio/mpeg"
        assert got.headers["Content-Disposition"] == f'inline; filename="{song.name}"'


async def test_unused_uploads_go_after_the_grace_period_and_kept_ones_after_their_time(
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
        assert {name[:32] for name in names(s3, url)} == {kept.id}, "file, thumbnail and record go together"
        s3.age(kept.id, MONTH - HOUR)
        await uploads.keep("alice", [kept.id])
        s3.age(kept.id, MONTH - HOUR)
        await uploads.sweep()
        assert await uploads.find("alice", [kept.id]) == [kept], "its time has begun again"
        s3.age(kept.id, 2 * HOUR)
        await uploads.sweep()
        assert names(s3, url) == set()
        assert uploads.there.total == 0


@pytest.mark.parametrize("before", ["a draft", "kept"])
async def test_one_that_is_kept_while_it_is_swept_stays(s3: S3, tmp_path: Path, url: str, before: str) -> None:
    """Without the condition on the mark, the sweep would delete an upload that a message refers to."""
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


@pytest.mark.parametrize("when", ["before anything is deleted", "after everything is"])
async def test_one_that_is_swept_while_it_is_kept_is_gone_for_who_keeps_it(
    s3: S3, tmp_path: Path, url: str, when: str
) -> None:
    """The upload was found, then claimed for deletion, then kept. The message must not be stored with a file that is
    being deleted.
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
        assert names(s3, url) == set(), "nor does the attempt leave anything"


@pytest.mark.parametrize("before", ["a draft", "kept"])
async def test_keeping_an_upload_that_is_being_deleted_is_refused(
    s3: S3, tmp_path: Path, url: str, before: str
) -> None:
    """Between the read and the write of the mark. Without the condition, the write would keep an upload that is being
    deleted.
    """
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        if before == "kept":
            store.keep([sent.id])
        sweeping = BucketUploads(url, StoreOptions(60.0, None, s3.values), tmp_path / "spool")
        condemned: list[bool] = []

        class Late(Bucket):
            def get(self, key: str) -> tuple[bytes, str | None]:
                try:
                    return super().get(key)
                finally:
                    if not condemned:
                        condemned.append(sweeping._condemn(sent.id, sweeping._scan()[sent.id].get("kept")))

        store.place = Late(url, StoreOptions(60.0, None, s3.values))
        with pytest.raises(FileNotFoundError):
            store.keep([sent.id])
        assert condemned == [True]
        sweeping.sweep(HOUR, MONTH, {})
        assert names(s3, url) == set()


async def test_concurrent_sweeps_and_keeps_do_not_disturb_each_other(s3: S3, tmp_path: Path, url: str) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        store, sent = store_of(uploads), await send(uploads, small())
        found = store._scan()[sent.id]
        for _ in range(3):
            store.keep([sent.id])
        assert not store._condemn(sent.id, found.get("kept")), "what it saw is not what is there"
        s3.age(sent.id, 2 * MONTH)
        kept = store._scan()[sent.id]["kept"]
        assert store._condemn(sent.id, kept)
        assert not store._condemn(sent.id, kept), "another's sweep has it already"
        assert store.sweep(HOUR, MONTH, {}) == {}, "another sweep finishes the deletion"
        assert names(s3, url) == set()


async def test_the_sweep_takes_debris_but_not_what_is_being_written_nor_what_is_not_ours(
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
async def test_a_damaged_record_is_not_found_and_stops_no_sweep(
    s3: S3, tmp_path: Path, url: str, record: bytes
) -> None:
    async with opened(s3, tmp_path, url) as uploads:
        damaged, good = await send(uploads, small()), await send(uploads, small())
        s3.put(f"{url.removeprefix('s3://bucket/')}/{damaged.id}.record", record)
        uploads.there.drop(damaged.id)
        await uploads.sweep()
        await unknown(uploads, "alice", damaged.id)
        assert await uploads.find("alice", [good.id]) == [good]


async def test_a_store_that_fails_is_said_leaves_nothing_and_takes_uploads_again(tmp_path: Path, url: str) -> None:
    with s3_in(tmp_path) as own:
        async with opened(own, tmp_path, url) as uploads:
            sent = await send(uploads, small())
            own.refuse(403, "AccessDenied")
            error = await refused(uploads, small())
            assert (error.code, error.temporary) == ("internal", True)
            assert "denies access (403)" in error.message
            with pytest.raises(WorkError, match="uploads unavailable"):
                await uploads.attach("alice", [sent.id])
            with pytest.raises(OSError, match="denies access"):
                await uploads.check()
            own.refuse(0, "")
        async with opened(own, tmp_path, url, timeout=0.5) as hasty:
            own.pause()
            assert "did not answer" in (await refused(hasty, small())).message
            own.go_on()
        async with opened(own, tmp_path, url) as uploads:
            assert await uploads.attach("alice", [(await send(uploads, small())).id, sent.id])
            await uploads.check()
            uploads.there.drop(sent.id)
            assert {name[:32] for name in names(own, url)} >= {sent.id}
