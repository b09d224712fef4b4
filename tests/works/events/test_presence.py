"""The contract of Presence, checked with every implementation: which users are in a room."""

from pathlib import Path

from tests.support.event_stores import every_kind, opened


@every_kind
async def test_a_user_is_present_until_the_last_connection_leaves(tmp_path: Path, kind: str) -> None:
    async with opened(kind, tmp_path) as store:
        assert await store.presence.enter("room", "alice", "phone")
        assert not await store.presence.enter("room", "alice", "laptop")
        assert not await store.presence.enter("room", "alice", "laptop")
        assert await store.presence.enter("room", "bob", "phone")
        assert await store.presence.enter("other", "carol", "laptop")
        assert await store.presence.present("room") == ["alice", "bob"]
        assert not await store.presence.leave("room", "alice", "laptop")
        assert await store.presence.leave("room", "alice", "phone")
        assert not await store.presence.leave("room", "alice", "phone")
        assert await store.presence.present("room") == ["bob"]
        assert await store.presence.present("nowhere") == []
