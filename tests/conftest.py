"""Fixtures for all tests: servers with default or special settings, Redis, S3, Chromium, film clips and cameras."""

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

# By default, both libraries give up after 5 to 20 s. A busy machine may take longer.
for _part in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _part, GUARD)
websockets.connect.__init__.__kwdefaults__ |= {"open_timeout": GUARD, "ping_timeout": GUARD}
# By default, Hypothesis fails an example that takes longer than 200 ms, and draws other examples in each run, so that a
# test could fail in only one of many runs. This profile has no deadline and always draws the same examples.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs tests that use Chromium in the event loop of the session, because the connection to Chromium belongs to one
    loop.
    """
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest.fixture(scope="session", autouse=True)
def _forking() -> None:
    """Loads the forkserver of the tests before any test changes the working directory or the environment."""
    forking.load(ROOT)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that need no special settings. Its connection limits are high, so that the tests do not
    disturb each other.
    """
    running = Server(
        tmp_path_factory.mktemp("server"), unforked=True, connections_per_user=100, connections_per_address=500
    )
    yield running
    assert running.process.poll() is None, "the server died:\n" + "".join(running.log)
    running.stop()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers with the given settings. The servers are stopped after the test."""
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
    """Starts servers as ``start`` does, but in threads of this process. LocalServer says which tests may use it."""
    started: list[LocalServer] = []

    def starter(**settings: object) -> Server:
        started.append(LocalServer(tmp_path, **settings))
        return started[-1]

    yield starter
    for running in started:
        running.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis server for one test. It stores its data on disk."""
    with redis_in(tmp_path) as running:
        yield running


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """One S3 server for all tests that neither stop it nor make it refuse requests. Each test uses a
    different prefix.
    """
    with s3_in(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[None]:
    """Starts Chromium for tests that use tests.browser.chromium."""
    await BROWSER.start()
    yield
    await BROWSER.close()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 10 seconds with 25 numbered frames per second."""
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", 250)


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 100 seconds with 25 numbered frames per second."""
    return make_clip(tmp_path_factory.mktemp("clip") / "long.mp4", 2500)


@pytest.fixture
def make_camera() -> Iterator[Callable[[Path], Camera]]:
    """Creates live sources that send a clip in a loop, each at a different address."""
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
