"""Redis behind TLS, a user and a password: the log goes by what its URL says, and trusts no other certificate."""

import asyncio
from pathlib import Path

import pytest

from tests.support.certificates import certificate
from tests.support.ports import free_port
from tests.support.redis import redis_in
from works.events.open import open_events


async def test_a_log_behind_tls_and_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other")
    port = free_port()
    tls = {"tls-port": port, "tls-cert-file": shown, "tls-key-file": key, "tls-auth-clients": "no"}
    users = tmp_path / "users.acl"
    users.write_text("user default off\nuser sluice on >a-password ~* &* +@all\n")
    with redis_in(tmp_path, aclfile=users, **tls):
        url = f"rediss://sluice:a-password@127.0.0.1:{port}/0?ssl_ca_certs="
        log = open_events(f"{url}{shown}", 100)
        assert await log.append("s", "{}") == 1
        await log.close()
        monkeypatch.undo()
        wrong = f"{url}{other}", f"{url}{shown}".replace("a-password", "another")
        logs = [open_events(each, 100) for each in wrong]
        refused = await asyncio.gather(*(log.append("s", "{}") for log in logs), return_exceptions=True)
        for log, error in zip(logs, refused, strict=True):
            assert isinstance(error, OSError)
            assert "a-password" not in str(error)
            await log.close()
