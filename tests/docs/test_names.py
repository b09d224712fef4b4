"""All files, names and settings that README.md, docs/ and CHANGELOG.md mention exist."""

import re
from pathlib import Path

import pytest

from config import SETTINGS
from tests.docs.blocks import FILES
from tests.support.running import ROOT

# Files that a command creates; any module of the client.
NO_FILES = {"benchmarks/results.md", "static/client/NAME.js"}
FOLDERS = "works|handlers|static|tests|cli|benchmarks|deploy|docs"
# Not after a slash, because `/static/sluice.js` is a URL.
PATH = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./@-]*[\w/]")
OLDER = ["message_queue", "work_loop", "Task", "work", "BrowserWebSocket", "verify_auth_token", "MEDIA_ROOT"]


@pytest.mark.parametrize("path", [*FILES, ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_mentioned_file_exists(path: Path) -> None:
    text = path.read_text()
    assert {name for name in PATH.findall(text) if not (ROOT / name).exists()} <= NO_FILES
    tests = {file.name for file in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"\btest_\w+\.py", text)) <= tests


def rows() -> dict[str, list[str]]:
    """Returns the table in README: each name of the older server, and the names that replace it."""
    text = (ROOT / "README.md").read_text()
    section = text.partition("## Names of the older server")[2].partition("\n## ")[0]
    cells = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {theirs.strip(" `"): re.findall("`([^`]+)`", ours) for theirs, ours in cells}


def test_every_name_of_the_older_server_is_in_the_table() -> None:
    assert list(rows()) == OLDER


@pytest.mark.parametrize("theirs", OLDER)
def test_the_names_that_replace_those_of_the_older_server_exist(theirs: str) -> None:
    """Each name is defined in a file of its row, or is a setting. A name with a hyphen is a flag."""
    named = rows()[theirs]
    files = [ROOT / name for name in named if PATH.fullmatch(name)]
    source = "".join(path.read_text() for path in files if path.is_file())
    for name in named:
        if not PATH.fullmatch(name) and name[0] not in "/-":
            is_defined = re.search(rf"^ *(?:class|def|async def) {name}\b", source, re.MULTILINE)
            assert is_defined or name in SETTINGS, name
    assert files
