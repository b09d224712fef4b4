"""Uploads. Only the owner of an upload can refer to it. It is retained while messages refer to it, also after a restart
and with two servers.
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


async def test_only_the_owner_finds_an_upload_and_others_get_the_error_for_unknown_ids(tmp_path: Path) -> None:
    """If owners were not compared, bert would find the uploads of alice."""
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
            "a failed attach kept an upload"
        )


def test_earlier_and_later_versions_read_each_others_records() -> None:
    """During a rolling restart, each server must find the uploads that the other version has accepted."""
    attachment = Attachment("0" * 32, ".jpg", 7, 2, 3, True, called="sea.jpg")
    assert parse_record(record_of("alice", attachment)) == ("alice", attachment)
    record = json.loads(record_of("alice", attachment))
    known = {"id", "suffix", "size", "width", "height", "has_thumbnail"}
    assert set(record["attachment"]) == known, "an earlier version refuses other members"
    del record["called"]
    assert parse_record(json.dumps(record).encode())[1] == replace(attachment, called="")


@pytest.mark.parametrize("id", ["", ".", "../uploads/x", "/etc/passwd", "\0", "A" * 32, "x" * 5000, "0" * 32 + "\n"])
async def test_an_invalid_id_is_not_found(tmp_path: Path, id: str) -> None:
    async with opened(tmp_path) as uploads:
        assert len(await unknown(uploads, "alice", id)) < 200


async def test_drafts_are_deleted_after_the_grace_and_kept_uploads_after_their_ttl(tmp_path: Path) -> None:
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
        assert {name[:32] for name in names(uploads)} == {kept.id}, "file, thumbnail and record are deleted together"
        age(uploads, kept.id, MONTH)
        await uploads.sweep()
        assert names(uploads) == []
        assert uploads.there.total == 0


async def test_the_ttl_of_a_kept_upload_starts_again_with_each_message(tmp_path: Path) -> None:
    async with opened(tmp_path) as uploads:
        sent = await send(uploads, small())
        age(uploads, sent.id, HOUR - 60)
        for _ in range(2):
            await uploads.keep("alice", [sent.id])
            age(uploads, sent.id, MONTH - 60)
            await uploads.sweep()
        assert await uploads.find("alice", [sent.id]) == [sent]


async def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    """If a new server did not read the owners in the records again, alice would get a second quota from that server."""
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


async def test_an_upload_that_is_kept_during_a_sweep_stays(tmp_path: Path) -> None:
    """The upload would be lost if the sweep deleted its files before its record, or deleted the files even when the
    record had been moved.
    """

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


async def test_the_sweep_deletes_leftovers_but_no_files_being_written_and_no_others(tmp_path: Path) -> None:
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
async def test_an_upload_with_a_damaged_record_is_not_found_and_stops_no_sweep(tmp_path: Path, record: bytes) -> None:
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
