"""Redis with TLS, a user name and a password. The store uses the user, the password and the CA certificate from its
URL. It trusts no other certificate.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

from tests.support.certificates import certificate
from tests.support.event_stores import PATIENT
from tests.support.ports import free_port
from tests.support.redis import redis_in
from works.events.redis.store import RedisEventStore


async def test_a_store_with_tls_and_a_password(tmp_path: Path) -> None:
    public, key = certificate(tmp_path)
    other, _ = certificate(tmp_path, "other")
    port = free_port()
    tls = {"tls-port": port, "tls-cert-file": public, "tls-key-file": key, "tls-auth-clients": "no"}
    users = tmp_path / "users.acl"
    users.write_text("user default off\nuser sluice on >a-password ~* &* +@all\n")
    with redis_in(tmp_path, aclfile=users, **tls):
        url = f"rediss://sluice:a-password@127.0.0.1:{port}/0?ssl_ca_certs="
        store = RedisEventStore(f"{url}{public}", 10_000, timeouts=PATIENT)
        assert await store.broker.append("s", "{}") == 1
        await store.close()
        wrong = f"{url}{other}", f"{url}{public}".replace("a-password", "another")
        stores = [RedisEventStore(each, 10_000, timeouts=replace(PATIENT, patience=2.0)) for each in wrong]
        refused = await asyncio.gather(*(store.broker.append("s", "{}") for store in stores), return_exceptions=True)
        for store, error in zip(stores, refused, strict=True):
            assert isinstance(error, OSError)
            assert "a-password" not in str(error)
            await store.close()
