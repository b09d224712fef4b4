"""docs/reference.md and docs/actions.md say what the code does: settings, log events, metrics, actions and pictures."""

import ast
import re

import cv2
import pytest

from tests.docs import reference
from tests.support.running import ROOT
from works.imaging import actions

LEVELS = ("debug", "info", "warning", "error", "exception")
PRODUCT = [ROOT / "server.py", *(path for name in ("handlers", "works", "cli") for path in (ROOT / name).rglob("*.py"))]


def logged() -> set[tuple[str, str]]:
    """Name and level of each event that the product logs, from its source."""
    events = set()
    for path in PRODUCT:
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(func=ast.Attribute(attr=level, value=logger), args=[ast.Constant(value=name), *_]):
                    if level in LEVELS and ast.unparse(logger) in ("log", "structlog.get_logger()"):
                        events.add((name, "error" if level == "exception" else level))
    return events


@pytest.mark.parametrize("name", ["reference.md", "actions.md"])
def test_the_generated_parts_are_those_of_the_code(name: str) -> None:
    """After a change of a setting, a metric or an action: make reference."""
    assert reference.pages()[name] == (reference.DOCS / name).read_text()


def test_every_log_event_is_documented_with_its_level() -> None:
    text = (reference.DOCS / "reference.md").read_text()
    table = text.partition("## Log events")[2].partition("## ")[0]
    documented = set(re.findall(r"^\| `([a-z]+\.[a-z_]+)` \| (\w+) \|", table, re.MULTILINE))
    assert documented == logged() | {("http.request", "debug")}  # its level depends on the status
    assert len(documented) > 40


def test_every_action_is_listed_with_a_picture_of_what_it_does_now() -> None:
    names = set(actions.offered())
    assert {path.stem for path in (reference.DOCS / "actions").iterdir()} == names
    assert "text" in names
    for name in names - {"text"}:
        stored = cv2.imread(str(reference.DOCS / "actions" / f"{name}.jpg"))
        assert stored is not None
        assert cv2.PSNR(stored, reference.picture(name)) > 25, name


def test_the_readme_names_every_action() -> None:
    section = (ROOT / "README.md").read_text().partition("## Actions")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(actions.offered())


def test_no_line_of_the_documents_is_longer_than_120_characters() -> None:
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    long = [
        f"{path.name}:{number}"
        for path in documents
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > 120
    ]
    assert long == []
