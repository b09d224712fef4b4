"""Servers, a scheduler and workers as separate processes, started by their commands as an operator starts them."""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import forking
from tests.support.certificates import certificate
from tests.support.client import PLUG, Client
from tests.support.dask import Dask, dask_in
from tests.support.pictures import encoded, photograph, small
from tests.support.queues import on_dask, task
from tests.support.running import GUARD, Server, Start, alive, until
from works.queue.cluster_address import ClusterAddress, is_private
from works.queue.dask import DaskCluster
from works.queue.settings import ClusterSettings


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Dask]:
    """A Dask cluster with two workers."""
    with dask_in(tmp_path, slice_timeout=4 * GUARD) as started:
        started.add(2)
        started.add(2)
        yield started


async def ready(server: Server) -> None:
    """Waits until the server is ready, which means that a worker is connected."""
    await until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, 2 * GUARD)


async def process(client: Client, slices: dict[int, bytes], **members: Any) -> list[dict[str, Any]]:
    """Sends slices, by their offsets, and returns the outcome of each.

    Sends a slice again when it is refused as busy. On a busy machine the scheduler may not answer for some seconds, and
    the server then treats it as unavailable.
    """
    for top, payload in slices.items():
        await client.slice(str(top), payload, top, **members)
    ends: list[dict[str, Any]] = []
    async with asyncio.timeout(4 * GUARD):
        while len(ends) < len(slices):
            end = await client.wait_for("result", "error")
            if end.get("code") == "busy":
                await asyncio.sleep(end["retry_after_ms"] / 1000)
                top = int(end["id"])
                await client.slice(end["id"], slices[top], top, **members)
            else:
                ends.append(end)
    return ends


async def test_two_workers_process_all_slices_of_a_tall_picture(cluster: Dask, start: Start) -> None:
    server = start(queue=cluster.url)
    await ready(server)
    whole = photograph()
    tops = list(range(0, whole.shape[0], 32))
    async with await Client.connect(server) as client:
        ends = await process(client, {top: encoded(whole[top : top + 32]) for top in reversed(tops)}, height=32)
        assert sorted(int(end["id"]) for end in ends) == tops
        for end in ends:
            assert httpx.get(end["url"]).status_code == 200
    assert len(server.results()) == len(tops)
    assert not [each for each in psutil.Process(server.process.pid).children() if "works.queue" in str(each.cmdline())]


@pytest.mark.chaos
async def test_readyz_reports_when_no_worker_can_be_reached_and_when_a_worker_is_back(
    cluster: Dask, start: Start
) -> None:
    server = start(queue=cluster.url)
    await ready(server)
    cluster.kill(cluster.scheduler)
    away = "queue: no worker is available"
    await until(lambda: away in httpx.get(f"{server.url}/readyz").json()["faults"])
    assert httpx.get(f"{server.url}/readyz").status_code == 503
    async with await Client.connect(server) as client:
        await client.slice("1", small())
        assert (await client.wait_for("error", id="1"))["code"] == "busy"
        cluster.start()
        await ready(server)
        (end,) = await process(client, {2: small()})
        assert end["type"] == "result"


def spent(process: psutil.Process) -> float:
    """Returns the CPU seconds that the process has used, or 0 for a process that has ended."""
    with suppress(psutil.NoSuchProcess):
        return float(process.cpu_times().user)
    return 0.0


@pytest.mark.chaos
async def test_when_a_server_is_killed_the_workers_end_its_slices(cluster: Dask, start: Start) -> None:
    server = start(queue=cluster.url)
    await ready(server)
    async with await Client.connect(server) as client:
        await until(lambda: all(len(cluster.decoders(worker)) == 2 for worker in cluster.workers), 2 * GUARD)
        decoders = [child for worker in cluster.workers for child in cluster.decoders(worker)]
        await client.slice("plug", small(), **PLUG)
        # The decoder child that processes this slice uses far more CPU seconds than the others, and more than a start
        # needs.
        most = 2 * GUARD
        await until(lambda: max(spent(child) for child in decoders) > 1 + min(spent(child) for child in decoders), most)
        child = max(decoders, key=spent)
        server.stop(signal.SIGKILL)
    await until(lambda: not alive(child), most)


@pytest.mark.chaos
async def test_two_servers_share_one_cluster(cluster: Dask, tmp_path: Path) -> None:
    async with on_dask(cluster, 4) as one, on_dask(cluster, 4) as other:
        queues = [one, other]
        results = await asyncio.gather(*(queues[number % 2].submit(task(str(number))) for number in range(60)))
        assert len({result.name for result in results}) == 60


def tls(folder: Path, name: str) -> dict[str, str]:
    """Returns TLS settings with a self-signed certificate, which is also its certificate authority."""
    cert, key = certificate(folder, name)
    return {"queue_ca": str(cert), "queue_cert": str(cert), "queue_key": str(key)}


@pytest.mark.chaos
async def test_with_tls_every_part_needs_a_certificate_of_the_authority(
    tmp_path: Path,
) -> None:
    ours, strangers = tls(tmp_path, "ours"), tls(tmp_path, "stranger")
    with dask_in(tmp_path, "tls", **ours) as cluster:
        cluster.add()
        async with on_dask(cluster, 1, **ours) as queue:
            assert (await queue.submit(task("1"))).name
            trusting = {**strangers, "queue_ca": ours["queue_ca"]}
            for wrong in (
                ClusterAddress(ClusterSettings(queue=cluster.url, **strangers)),
                ClusterAddress(ClusterSettings(queue=cluster.url, **trusting)),
                ClusterAddress(ClusterSettings(queue=cluster.url.replace("tls", "tcp"))),
            ):
                with pytest.raises(OSError):  # noqa: PT011 - refused in one of several ways
                    await DaskCluster.connect(wrong)
            cluster.add(**trusting)
            # The queue may not be ready for a moment, because the scheduler may have answered too late meanwhile.
            await until(queue.ready)
            assert (await queue.submit(task("2"))).name
            assert queue.threads == 1


async def test_no_dashboard_listens_unless_it_is_enabled(cluster: Dask) -> None:
    async with on_dask(cluster, 4):
        assert cluster.scheduler
        for process in (cluster.scheduler, *cluster.workers):
            listening = [
                each.laddr for each in psutil.Process(process.pid).net_connections() if each.status == "LISTEN"
            ]
            assert {address.ip for address in listening} == {"127.0.0.1"}
            for address in listening:
                for page in ("/", "/status", "/metrics", "/info/main/workers.html", "/health"):
                    with suppress(httpx.TransportError):  # the port speaks Dask's protocol, or waits for more bytes
                        url = f"http://127.0.0.1:{address.port}{page}"
                        assert httpx.get(url, timeout=5).status_code == 404


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("tcp://8.8.8.8:8786", "public address"),
        ("magic:", "tls://HOST:PORT"),
        ("tls://127.0.0.1:8786", "queue_ca"),
        ("tcp://127.0.0.1:99999", "tcp://HOST:PORT"),
    ],
)
def test_a_server_and_a_worker_refuse_invalid_and_public_addresses(tmp_path: Path, url: str, says: str) -> None:
    for command in (["--port=0", f"--queue={url}"], ["worker", f"--scheduler={url}"]):
        done = forking.run(command, tmp_path, dict(os.environ))
        assert done.returncode == 2
        assert says in done.stderr


async def test_a_worker_without_a_scheduler_ends_after_sigterm(tmp_path: Path) -> None:
    with dask_in(tmp_path, start=False, log_level="info") as cluster:
        worker = cluster.add()
        await until(lambda: cluster.decoders(worker))
        assert await asyncio.to_thread(cluster.stop, worker) == 0


def test_a_scheduler_without_tls_does_not_listen_on_all_addresses(tmp_path: Path) -> None:
    with dask_in(tmp_path, start=False, listen="0.0.0.0") as cluster:
        cluster.start()
        assert cluster.scheduler
        assert cluster.scheduler.wait(2 * GUARD) == 2
        assert "0.0.0.0 is a public address" in cluster.log


async def test_a_server_connects_to_a_public_address_without_tls_when_that_is_allowed(start: Start) -> None:
    server = start(queue="tcp://192.0.2.1:8786", queue_plain="true")
    assert httpx.get(f"{server.url}/readyz").status_code == 503


@pytest.mark.parametrize(
    ("ip", "private"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("192.168.0.9", True),
        ("::1", True),
        ("fe80::1%eth0", True),
        ("fd00::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("8.8.8.8", False),
        ("2001:4860:4860::8888", False),
    ],
)
def test_is_private_is_true_for_addresses_that_the_internet_cannot_reach(ip: str, private: bool) -> None:
    assert is_private(ip) is private


def test_addresses_of_ipv4_and_ipv6_are_parsed() -> None:
    both = [ClusterAddress(ClusterSettings(queue=url)) for url in ("tcp://[::1]:8786", "tcp://127.0.0.1:8786/")]
    assert [(each.host, each.port) for each in both] == [("::1", 8786), ("127.0.0.1", 8786)]
    assert both[0].url_of("::1", 1) == "tcp://[::1]:1"
