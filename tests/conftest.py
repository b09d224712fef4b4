"""Fixtures: a shared server with default settings, a maker of servers with others, a Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import websockets
from hypothesis import HealthCheck, settings

from tests.browser.chromium import BROWSER
from tests.support import forking
from tests.support.here import LocalServer
from tests.support.redis import Redis, redis_in
from tests.support.running import GUARD, ROOT, Server, Start
from tests.support.s3 import S3, s3_in
from tests.support.streams import Camera, make_clip

# Both libraries give up after 5 to 20 s unless told otherwise, each time. A busy machine may take longer.
for _part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _part, GUARD)
websockets.connect.__init__.__kwdefaults__ |= {"open_timeout": GUARD, "ping_timeout": GUARD}
# Hypothesis fails an example that takes 200 ms, and one test in many runs by what it happens to draw.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use Chromium run in the event loop of the session: its connection belongs to one loop."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session", autouse=True)
def _forking() -> None:
    """Before a test changes the folder or the environment."""
    forking.load(ROOT)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need nothing special; caps are raised so that tests do not meet each other's."""
    running = Server(
        tmp_path_factory.mktemp("server"), unforked=True, connections_per_user=100, connections_per_address=500
    )
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with settings of their own; they are stopped after the test."""
    started: list[Server] = []

    def starter(**settings: object) -> Server:
        started.append(Server(tmp_path, **settings))
        return started[-1]

    yield starter
    for running in started:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture
def start_here(tmp_path: Path) -> Iterator[Start]:
    """Starts servers as ``start`` does, in threads of this process: see LocalServer for who may use it."""
    started: list[LocalServer] = []

    def starter(**settings: object) -> Server:
        started.append(LocalServer(tmp_path, **settings))
        return started[-1]

    yield starter
    for running in started:
        running.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of this test's own, which keeps its data."""
    with redis_in(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for all tests that neither stop it nor have it refuse; each takes a prefix of its own."""
    with s3_in(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[None]:
    """For tests that use tests.browser.chromium."""
    await BROWSER.start()
    yield
    await BROWSER.close()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of ten seconds, 25 numbered frames each."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 250)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred seconds of numbered frames, 25 a second."""
    return make_clip(tmp_path_factory.mktemp("clip") / "long.mp4", 2500)


@pytest.fixture
def make_camera() -> Iterator[Callable[[Path], Camera]]:
    """Live sources that send what a clip shows, over and over, each at an address of its own."""
    made: list[Camera] = []

    def make(clip: Path) -> Camera:
        made.append(Camera(clip).start())
        return made[-1]

    yield make
    for camera in made:
        camera.lose()


@pytest.fixture
def camera(make_camera: Callable[[Path], Camera], long_clip: Path) -> Camera:
    return make_camera(long_clip)
