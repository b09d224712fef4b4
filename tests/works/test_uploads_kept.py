"""Uploads: only their owner can refer to them, and they stay while a message does, over restarts and with
two servers.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.films import sound
from tests.support.pictures import small
from tests.support.uploads import HOUR, MONTH, age, names, opened, refused, send, unknown
from works.storage.uploads_folder import FolderUploads
from works.storage.uploads_store import Attachment, parse_record, record_of


async def test_only_the_owner_finds_an_upload_and_others_get_not_found(tmp_path: Path) -> None:
    """Without the comparison of owners, bert would find the upload of alice."""
    async with opened(tmp_path) as uploads:
        mine, also = await send(uploads, small()), await send(uploads, sound(".mp3"))
        assert await uploads.find("alice", [also.id, mine.id]) == [also, mine]
        assert await uploads.find("alice", []) == []
        foreign = await unknown(uploads, "bert", mine.id)
        assert mine.id in foreign
        assert foreign == (await unknown(uploads, "bert", "0" * 32)).replace("0" * 32, mine.id)
        theirs = await send(uploads, small(), "bert")
        assert theirs.id in await unknown(uploads, "alice", mine.id, theirs.id)
        await uploads.sweep()
        age(uploads, mine.id, HOUR + 1)
        await uploads.sweep()
        assert "is not an upload of this user" in await unknown(uploads, "alice", mine.id), (
            "a failed attach keeps nothing"
        )


def test_records_of_earlier_and_later_servers_are_read_by_both() -> None:
    """While servers are replaced one by one, each has to find the uploads of the others."""
    attachment = Attachment("0" * 32, ".jpg", 7, 2, 3, True, called="sea.jpg")
    assert parse_record(record_of("alice", attachment)) == ("alice", attachment)
    record = json.loads(record_of("alice", attachment))
    known = {"id", "suffix", "size", "width", "height", "has_thumbnail"}
    assert set(record["attachment"]) == known, "an earlier one takes no others"
    del record["called"]
    assert parse_record(json.dumps(record).encode())[1] == replace(attachment, called="")


@pytest.mark.parametrize("id", ["", ".", "../uploads/x", "/etc/passwd", "\0", "A" * 32, "x" * 5000, "0" * 32 + "\n"])
async def test_what_never_was_an_id_is_not_found(tmp_path: Path, id: str) -> None:
    async with opened(tmp_path) as uploads:
        assert len(await unknown(uploads, "alice", id)) < 200


async def test_unused_uploads_go_after_the_grace_period_and_kept_ones_after_their_time(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        draft, kept = await send(uploads, small()), await send(uploads, small())
        assert await uploads.attach("alice", [kept.id]) == [kept.as_dict()]
        for each in (draft, kept):
            age(uploads, each.id, HOUR - 60)
        await uploads.sweep()
        assert len(names(uploads)) == 6
        for each in (draft, kept):
            age(uploads, each.id, 120)
        await uploads.sweep()
        assert await uploads.find("alice", [kept.id]) == [kept]
        assert {name[:32] for name in names(uploads)} == {kept.id}, "file, thumbnail and record go together"
        age(uploads, kept.id, MONTH)
        await uploads.sweep()
        assert names(uploads) == []
        assert uploads.there.total == 0


async def test_the_time_of_a_kept_upload_begins_again_with_each_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        sent = await send(uploads, small())
        age(uploads, sent.id, HOUR - 60)
        for _ in range(2):
            await uploads.keep("alice", [sent.id])
            age(uploads, sent.id, MONTH - 60)
            await uploads.sweep()
        assert await uploads.find("alice", [sent.id]) == [sent]


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    """If the second server did not read the owners of records again, it would give alice another quota."""
    data = sound(".wav")
    async with opened(tmp_path) as uploads:
        draft, kept = await send(uploads, data), await send(uploads, data)
        await uploads.keep("alice", [kept.id])
    async with opened(tmp_path, upload_bytes_per_user=2 * len(data)) as uploads:
        await uploads.sweep()
        assert await uploads.find("alice", [draft.id, kept.id]) == [draft, kept]
        assert "upload_bytes_per_user" in (await refused(uploads, b"x")).message
        await refused(uploads, data)
        for each in (draft, kept):
            age(uploads, each.id, HOUR + 1)
        await uploads.sweep()
        assert await uploads.find("alice", [kept.id]) == [kept]
        await unknown(uploads, "alice", draft.id)


async def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        sent = await send(one, small())
        assert await two.find("alice", [sent.id]) == [sent]
        await two.keep("alice", [sent.id])
        age(one, sent.id, HOUR + 1)
        await one.sweep()
        await two.sweep()
        assert await one.find("alice", [sent.id]) == [sent]
        assert one.there.held == two.there.held


async def test_one_that_is_kept_while_it_is_swept_stays(tmp_path: Path) -> None:
    """If its files were deleted before its record, or independent of it, they would be gone."""

    class Slow(FolderUploads):
        def _scan(self, now: float) -> Any:
            found = super()._scan(now)
            self.keep(list(found))
            return found

    async with opened(tmp_path) as uploads:
        sent = await send(uploads, small())
        age(uploads, sent.id, HOUR + 1)
        assert list(Slow(uploads.place).sweep(HOUR, MONTH, {})) == [sent.id]
        assert await uploads.find("alice", [sent.id]) == [sent]
        assert len(names(uploads)) == 3


async def test_the_sweep_takes_debris_but_not_what_is_being_written_nor_what_is_not_ours(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        young, old = "1" * 32, "2" * 32
        for id in (young, old):
            for name in (f".{id}.part", f".{id}.record.part", f"{id}.mp4", f"{id}-small.webp"):
                (uploads.place / name).write_bytes(b"x")
        (uploads.place / ".gitkeep").touch()
        os.utime(uploads.place / ".gitkeep", (0, 0))
        age(uploads, old, 2 * HOUR)
        await uploads.sweep()
        assert [name for name in names(uploads) if old in name] == []
        assert len([name for name in names(uploads) if young in name]) == 4
        assert ".gitkeep" in names(uploads)


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"owner": "alice", "attachment": {"size": 1}}'])
async def test_a_damaged_record_is_not_found_and_stops_no_sweep(tmp_path: Path, record: bytes) -> None:
    async with opened(tmp_path) as uploads:
        damaged, sound_one = await send(uploads, small()), await send(uploads, small())
        (uploads.place / f"{damaged.id}.draft").write_bytes(record)
        uploads.there.drop(damaged.id)
        await uploads.sweep()
        await unknown(uploads, "alice", damaged.id)
        assert await uploads.find("alice", [sound_one.id]) == [sound_one]
        age(uploads, damaged.id, HOUR + 1)
        await uploads.sweep()
        assert {name[:32] for name in names(uploads)} == {sound_one.id}
