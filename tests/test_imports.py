"""Imports point one way, server -> cli -> handlers -> works and to config, drivers stay home, and files stay short."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.running import ROOT

PRODUCT = [
    *ROOT.glob("*.py"),
    *(ROOT / "cli").rglob("*.py"),
    *(ROOT / "handlers").rglob("*.py"),
    *(ROOT / "works").rglob("*.py"),
]
TESTS = [*(ROOT / "tests").rglob("*.py")]
SHORT = [*PRODUCT, *TESTS, *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "static").rglob("*.js")]

# What every endpoint may import of handlers/; the other modules are one endpoint each.
CORE = "handlers.core."
# What talks to the world for us, or decodes what strangers send.
CHOSEN = {"asyncssh", "dask", "distributed", "obstore", "rapidocr", "redis", "yaml"}
DRIVERS = {"jwt", "obstore", "prometheus_client", "simplejpeg"} | CHOSEN
NOT_FOR_WORKS = {"tornado", "handlers", "cli", "config", "limits", "server"}
NOT_FOR_HANDLERS = {"cv2", "numpy", "simplejpeg", "sqlite3", "cli", "config", "limits", "server"} | CHOSEN


class Import(NamedTuple):
    importer: str
    imported: str

    @property
    def top(self) -> str:
        return self.imported.partition(".")[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_in(source: str, importer: str) -> Iterator[Import]:
    """Every import, those within functions too; ``from a import b`` is said as ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: relative imports hide where they point"
            yield from (Import(importer, f"{node.module}.{alias.name}") for alias in node.names)


IMPORTS = [each for path in PRODUCT for each in imports_in(path.read_text(), module_of(path))]


def of(package: str) -> list[Import]:
    return [each for each in IMPORTS if each.importer.partition(".")[0] == package]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that are loaded once this is done."""
    script = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_the_walk_sees_every_kind_of_import() -> None:
    source = "import a.b\nfrom c import d, e as f\ndef g():\n    if h:\n        from i.j import k\n"
    assert [each.imported for each in imports_in(source, "x")] == ["a.b", "c.d", "c.e", "i.j.k"]
    assert len(of("works")) > 100
    assert len(of("handlers")) > 50


def test_works_knows_nothing_of_tornado_handlers_or_settings() -> None:
    assert [each for each in of("works") if each.top in NOT_FOR_WORKS] == []


def test_handlers_touch_no_pixels_no_database_and_no_settings() -> None:
    assert [each for each in of("handlers") if each.top in NOT_FOR_HANDLERS] == []


def test_handlers_do_not_import_each_other_but_only_core() -> None:
    between = [each for each in of("handlers") if each.top == "handlers"]
    assert [each for each in between if not f"{each.imported}.".startswith(CORE)] == []


def test_config_is_imported_by_server_and_the_command_line_only_and_server_by_nobody() -> None:
    assert {each.importer.partition(".")[0] for each in IMPORTS if each.top == "config"} <= {"server", "cli"}
    assert [each for each in IMPORTS if each.top == "server"] == []


def test_config_stands_alone() -> None:
    assert [each for each in of("config") + of("limits") if each.top in ("server", "cli", "handlers", "works")] == []


def test_each_driver_is_imported_in_one_file_only() -> None:
    homes = defaultdict(set)
    for each in IMPORTS:
        homes[each.top].add(each.importer)
    assert {driver: homes[driver] for driver in DRIVERS if len(homes[driver]) > 1} == {}
    assert homes["simplejpeg"] == {"works.imaging.codec"}


def test_a_driver_is_loaded_only_when_it_is_chosen() -> None:
    assert loaded_by("import server") & CHOSEN == set()


@pytest.mark.parametrize("child", ["works.queue.decoder", "works.video.capture_child"])
def test_a_child_loads_neither_the_web_server_nor_the_database(child: str) -> None:
    loaded = loaded_by(f"import {child}")
    assert "cv2" in loaded
    assert loaded & {"tornado", "sqlite3", "jwt", "handlers", "config"} == set()


@pytest.mark.parametrize("path", SHORT, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_at_most_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300
