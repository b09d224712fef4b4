"""Every code block of README.md and docs/ works: shell, Python, JavaScript, JSON. Only forms are not run."""

import base64
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext

from cli import job as job_command
from tests.browser.chromium import BROWSER
from tests.docs.blocks import BLOCKS, FILES, Block, blocks_in, under
from tests.docs.pages import Pages, Watched
from tests.docs.terminal import Terminal
from tests.support.nginx import nginx_before
from tests.support.pictures import decoded, encoded, tall
from tests.support.ports import free_port
from tests.support.running import GUARD, ROOT, SECRET, Server
from tests.support.streams import make_clip

LANGUAGES = {"sh", "python", "js", "html", "json", "http"}
MARKS = {"", "form", "output", "own origin"}
TUTORIAL = under("docs/tutorial.md")
ONE_MACHINE = under("docs/scaling.md", "What to add")
OWN_ACTION = under("docs/how-to.md", "Add an action")
OWN_JOB = under("docs/jobs.md", "A kind of your own")
# Blocks that depend on each other. Each group has a test of its own; that of rollouts is in test_rollout_tutorial.py.
TOGETHER = [*under("docs/jobs.md", "Tutorial"), *TUTORIAL, *ONE_MACHINE, *OWN_ACTION, *OWN_JOB]
PICTURE = encoded(tall(2000, 400))
# Parts that an example leaves to its reader.
AROUND = """<!doctype html><title>An example</title><link rel="icon" href="data:,">
<div id="page"></div> <canvas id="canvas" width="320" height="180"></canvas>
<script>
  const token = "{token}", shown = [], logged = [];
  const bytes = Uint8Array.from(atob("{picture}"), (letter) => letter.charCodeAt());
  const file = new Blob([bytes], {{ type: "image/jpeg" }});
  const show = (top, height, url) => {{
    const image = new Image();
    image.onload = () => shown.push({{ top, height, image }});
    image.src = url;
  }};
  const log = console.log;
  console.log = (...said) => {{ logged.push(said.join(" ")); log(...said); }};
</script>
"""
# File -> an expression that is true when the example has done its work.
SHOWN = {
    "README.md": "shown.reduce((sum, { height }) => sum + height, 0) === 2000",
    "docs/messaging.md": """logged.includes("room/harbour 1 alice Look at the third scan.")
        && logged.includes("direct/bob 1 alice Are you there?")""",
    "docs/video.md": "canvas.getContext('2d').getImageData(0, 0, 320, 180).data.some((value) => value > 0)",
    "docs/jobs.md": "logged.some((line) => line.startsWith('succeeded'))",
}


def alone(*languages: str) -> list[Block]:
    """Returns the blocks in these languages that run by themselves."""
    return [block for block in BLOCKS if block.language in languages and block.mark == "" and block not in TOGETHER]


def test_every_block_is_found() -> None:
    """Counts the blocks in a second, simpler way."""
    for path in FILES:
        text, found = path.read_text(), under(str(path.relative_to(ROOT)))
        fences = len(re.findall("^ *```", text, re.MULTILINE))
        without = re.sub("^```.*?^```$", "```", text, flags=re.MULTILINE | re.DOTALL)
        indented = re.findall(r"^ {4}.*\n(?:(?: {4}.*)?\n)*", without, re.MULTILINE)
        assert len(found) == fences // 2 + len(indented), path
        lines = {number for block in found for number in range(block.line, block.line + block.text.count("\n"))}
        for number, line in enumerate(text.splitlines(), 1):
            assert number in lines or not line.startswith("    "), f"{path.name}:{number}: no block has this line"
    with_code = {block.file for block in BLOCKS}
    assert {"README.md", *(f"docs/{name}.md" for name in ("how-to", "jobs", "messaging", "scaling"))} <= with_code


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_in_a_language_that_is_run_or_is_marked(block: Block) -> None:
    assert_known(block)


@pytest.mark.parametrize("text", ["```ruby\nputs 1\n```", "```\nanything\n```", "<!-- later -->\n\n    make run"])
def test_an_unknown_language_or_mark_fails(text: str) -> None:
    (block,) = blocks_in(text, "some.md")
    with pytest.raises(AssertionError):
        assert_known(block)


def assert_known(block: Block) -> None:
    assert block.mark in MARKS, f"{block}: no such mark: {block.mark}"
    assert block.language in LANGUAGES or block.mark == "form", f"{block}: no test runs {block.language!r}"
    assert block.language != "python" or block in TOGETHER, f"{block}: a test of its own must use it"


def test_blocks_end_in_the_right_line() -> None:
    text = "## First\n- a list,\n    that goes on\n\n    one\n\n    two\n\n"
    text += "<!-- form -->\n```js\n    three\n```\n## Second\n\n    four\n"
    found = [(each.line, each.section, each.language, each.mark, each.text) for each in blocks_in(text, "some.md")]
    assert found == [
        (5, "First", "sh", "", "one\n\ntwo\n"),
        (11, "First", "js", "form", "    three\n"),
        (15, "Second", "sh", "", "four\n"),
    ]
    with pytest.raises(ValueError, match=r"some\.md:1"):
        list(blocks_in("```js\n", "some.md"))


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with Pages() as running:
        yield running


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of twenty seconds with five numbered frames each."""
    return make_clip(tmp_path_factory.mktemp("film") / "walk.mp4", 100, fps=5)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, pages: Pages, film: Path) -> Iterator[Server]:
    """A server for examples that start none: with the sources and folders that they name, and open to
    another origin.
    """
    folder = tmp_path_factory.mktemp("service")
    (folder / "scans").mkdir()
    (folder / "scans" / "one.jpg").write_bytes(PICTURE)
    running = Server(
        folder,
        allow_origins=pages.origin,
        sources=f"yard={film}",
        folders=f"scans={folder / 'scans'},films={film.parent}",
        connections_per_user=100,
    )
    yield running
    running.stop()


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: None) -> AsyncIterator[BrowserContext]:
    async with BROWSER.context() as opened:
        yield opened


@pytest.fixture
def terminal(tmp_path: Path, film: Path) -> Iterator[Terminal]:
    """Blocks that need a server with special settings start it."""
    with Terminal(tmp_path) as opened:
        shutil.copy(film, opened.folder / "clip.mp4")
        yield opened


@pytest.mark.parametrize("block", alone("sh"), ids=str)
def test_a_shell_block_runs(block: Block, tmp_path: Path, film: Path, request: pytest.FixtureRequest) -> None:
    ports, variables = {}, {}
    if "127.0.0.1:8000" in block.text and "server.py" not in block.text:
        server: Server = request.getfixturevalue("service")
        ports[8000] = server.port
        variables = {"T": server.token(scope="images chat jobs"), "ADMIN": server.token("root", "admin")}
    if "redis://" in block.text:
        ports[6379] = request.getfixturevalue("redis").port
    if "s3://" in block.text:  # no request to a real object store: the server sends none at its start
        variables["SLUICE_STORE_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    with Terminal(tmp_path, ports, **variables) as terminal:
        shutil.copy(film, terminal.folder / "clip.mp4")
        (terminal.folder / "photo.jpg").write_bytes(PICTURE)
        output = terminal.run(block.text)
        for made in re.findall(r" -o (\S+\.jpg)", block.text):
            assert decoded((terminal.folder / made).read_bytes()).size
    if "/jobs -d" in block.text:
        assert ended(server, json.loads(output)["id"]) == "succeeded"


def ended(server: Server, id: str) -> str:
    """Returns the final state of the job."""
    end = time.monotonic() + GUARD
    while True:
        answer = httpx.get(f"{server.url}/jobs/{id}", headers=bearer(server.token(scope="jobs"))).json()
        if answer["job"]["end"]:
            return str(answer["job"]["state"])
        assert time.monotonic() < end, answer
        time.sleep(0.05)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def job_forms() -> list[str]:
    text = "".join(block.text for block in BLOCKS if block.mark == "form")
    return [line.partition("server.py job ")[2] for line in text.splitlines() if "server.py job " in line]


@pytest.mark.parametrize("command", job_forms())
def test_a_form_of_a_command_names_an_existing_command(command: str) -> None:
    job_command.parser().parse_args(command.split())


def test_a_custom_action_is_offered(terminal: Terminal) -> None:
    (block,) = OWN_ACTION
    (terminal.folder / "works/imaging/actions/negative.py").write_text(block.text)
    (terminal.folder / "white.png").write_bytes(encoded(tall(8, 8) | 255, ".png"))
    terminal.run("""
        export SLUICE_JWT_SECRET=$(openssl rand -hex 32)
        .venv/bin/python server.py --port 8000
        T=$(.venv/bin/python server.py token --sub alice)
        curl --data-binary @white.png -H "Authorization: Bearer $T" -o out.png http://127.0.0.1:8000/process?action=negative
    """)
    assert not decoded((terminal.folder / "out.png").read_bytes()).any()


def test_a_custom_kind_of_job_runs(terminal: Terminal) -> None:
    python, shell = OWN_JOB
    (file,) = re.findall(r"This one is `(\w+\.py)`", (ROOT / python.file).read_text())
    (terminal.folder / file).write_text(python.text)
    output = terminal.run(shell.text)
    assert "== succeeded" in output
    assert '"reached": 1' in output


@pytest.mark.parametrize("block", alone("json"), ids=str)
def test_a_json_block_parses(block: Block) -> None:
    found = json.loads(block.text)
    messages = [found, *found.get("events", [])] if "type" in found else []
    tables = (ROOT / block.file).read_text()
    assert all(re.search(rf"^(?:\| .*|- )`{each['type']}`", tables, re.MULTILINE) for each in messages)


@pytest.mark.parametrize("block", alone("http"), ids=str)
def test_an_example_request_is_answered(block: Block, service: Server) -> None:
    for line in block.text.replace("NAME", "yard").splitlines():
        method, path = line.split(" ")
        with httpx.stream(method, service.url + path, headers=bearer(service.token(scope="video"))) as answer:
            assert answer.status_code == 200
            assert any(b"\xff\xd8" in chunk for chunk in answer.iter_raw())


@pytest.mark.parametrize("block", alone("js", "html"), ids=str)
async def test_an_example_works_on_a_page_of_another_origin(
    block: Block, service: Server, pages: Pages, context: BrowserContext
) -> None:
    token = service.token(scope="images chat video jobs")
    code = block.text if block.language == "html" else f'<script type="module">\n{block.text}</script>'
    code = code.replace("https://pictures.example", service.url).replace("wss://pictures.example", service.ws)
    pages.pages["/example"] = AROUND.format(token=token, picture=base64.b64encode(PICTURE).decode()) + code
    page = await Watched.open(context, f"{pages.origin}/example")
    await page.shows(SHOWN[block.file])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.mark == "own origin"], ids=str)
async def test_an_example_for_pages_of_the_server_works_there(
    block: Block, service: Server, context: BrowserContext
) -> None:
    page = await Watched.open(context, f"{service.url}/?token={service.token(scope='images chat video jobs')}")
    await page.page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", block.text)
    await page.shows("document.body.lastElementChild.naturalWidth > 0")


async def test_the_tutorial_leads_to_a_page_that_shows_the_picture(terminal: Terminal, context: BrowserContext) -> None:
    start, token, html, look = TUTORIAL
    terminal.run(start.text)
    text = html.text.replace("PUT THE TOKEN HERE", terminal.run(token.text).strip())
    (terminal.folder / "page").mkdir()
    (terminal.folder / "page" / "index.html").write_text(text.replace(":8000", f":{terminal.port(8000)}"))
    terminal.run(look.text)
    page = await Watched.open(context, f"http://127.0.0.1:{terminal.port(9000)}")
    await page.page.set_input_files("input", {"name": "tall.jpg", "mimeType": "image/jpeg", "buffer": PICTURE})
    # At zoom 0.5 the results together have half the height of the picture.
    await page.shows("[...document.images].reduce((sum, image) => sum + image.naturalHeight, 0) === 1000")


@pytest.mark.chaos
def test_all_parts_run_on_one_machine(tmp_path: Path) -> None:
    parts, process = ONE_MACHINE
    with Terminal(tmp_path, SLUICE_JWT_SECRET=SECRET) as terminal:
        terminal.run(parts.text)
        end = time.monotonic() + GUARD
        while not httpx.get(f"http://127.0.0.1:{terminal.port(8001)}/readyz").is_success:
            assert time.monotonic() < end
        servers = [terminal.port(8001), terminal.port(8002)]
        with nginx_before(tmp_path, servers, terminal.folder / "media", terminal.folder / "var/uploads") as nginx:
            terminal.run(process.text.replace("http://127.0.0.1/", f"{nginx.url}/"))
        assert max(decoded((terminal.folder / "small.jpg").read_bytes()).shape) == 512
