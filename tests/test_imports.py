"""Tests the directions of imports: server -> cli, handlers -> works, server -> config. Modules do not import each other
in a circle, and each driver is imported in one file only.
"""

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

# Packages of handlers/ that all endpoints use. Every other module of handlers/ is an endpoint, and endpoints do not
# import each other.
SHARED = {"handlers.core"}
# Packages that connect to other services, or decode input from clients.
CHOSEN = {"asyncssh", "dask", "distributed", "obstore", "rapidocr", "redis", "yaml"}
DRIVERS = {"jwt", "obstore", "prometheus_client", "simplejpeg"} | CHOSEN
NOT_FOR_WORKS = {"tornado", "handlers", "config", "server"}
NOT_FOR_HANDLERS = {"cv2", "numpy", "simplejpeg", "sqlite3", "config", "server"} | CHOSEN


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
    """Yields every import, also those inside functions. ``from a import b`` becomes ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(importer, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}: a relative import does not show its target"
            yield from (Import(importer, f"{node.module}.{alias.name}") for alias in node.names)


IMPORTS = [each for path in PRODUCT for each in imports_in(path.read_text(), module_of(path))]


def of(package: str) -> list[Import]:
    return [each for each in IMPORTS if each.importer.partition(".")[0] == package]


def loaded_by(statement: str) -> set[str]:
    """Returns the top-level modules that are loaded after the statement."""
    script = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_imports_in_finds_every_kind_of_import() -> None:
    source = "import a.b\nfrom c import d, e as f\ndef g():\n    if h:\n        from i.j import k\n"
    assert [each.imported for each in imports_in(source, "x")] == ["a.b", "c.d", "c.e", "i.j.k"]
    assert len(of("works")) > 100
    assert len(of("handlers")) > 50


def test_works_does_not_import_tornado_handlers_or_config() -> None:
    assert [each for each in of("works") if each.top in NOT_FOR_WORKS] == []


def test_handlers_do_not_import_image_libraries_databases_or_config() -> None:
    assert [each for each in of("handlers") if each.top in NOT_FOR_HANDLERS] == []


def test_endpoints_import_only_core_from_handlers() -> None:
    between = [each for each in of("handlers") if each.top == "handlers"]
    strangers = [each for each in between if not any(f"{each.imported}.".startswith(f"{name}.") for name in SHARED)]
    assert strangers == []


def test_only_the_server_and_its_command_line_import_config() -> None:
    assert {each.importer.partition(".")[0] for each in IMPORTS if each.top == "config"} == {"server", "cli"}
    assert {each.importer for each in IMPORTS if each.top == "server"} == set()
    assert {each.importer for each in IMPORTS if each.top == "cli"} <= {"server", "cli.worker", "cli.scheduler"}


def circles(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Returns the names that are part of a circle or lead to one.

    It repeatedly removes the names that have no arrow to a remaining name. The result is what remains.
    """
    while ends := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in ends}
    return arrows


def test_no_modules_import_each_other_in_a_circle() -> None:
    modules = {module_of(path) for path in PRODUCT}
    arrows: dict[str, set[str]] = {module: set() for module in modules}
    for each in IMPORTS:
        for target in (each.imported, each.imported.rpartition(".")[0]):
            if target in modules and target != each.importer:
                arrows[each.importer].add(target)
                break
    assert circles(arrows) == {}


def test_no_parts_of_works_import_each_other_in_a_circle() -> None:
    """A part is a folder or a file directly in works."""
    parts = {path.stem for path in (ROOT / "works").iterdir() if path.stem.isidentifier()}
    arrows: dict[str, set[str]] = {part: set() for part in parts}
    for each in of("works"):
        if each.importer != "works" and each.imported.startswith("works."):
            arrows[each.importer.split(".")[1]].add(each.imported.split(".")[1])
    assert circles({part: targets - {part} for part, targets in arrows.items()}) == {}


def test_each_class_name_is_used_once() -> None:
    homes = defaultdict(set)
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(module_of(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_config_imports_only_the_groups_of_settings() -> None:
    known = {each.imported for each in of("config") if each.top in ("handlers", "works", "cli", "server")}
    assert {name for name in known if not name.rpartition(".")[0].endswith(("settings", "sessions"))} == set()


def test_each_driver_is_imported_in_one_file_only() -> None:
    homes = defaultdict(set)
    for each in IMPORTS:
        homes[each.top].add(each.importer)
    assert {driver: homes[driver] for driver in DRIVERS if len(homes[driver]) > 1} == {}
    assert homes["simplejpeg"] == {"works.imaging.codec"}


def test_a_driver_is_loaded_only_when_it_is_chosen() -> None:
    assert loaded_by("import server") & CHOSEN == set()


@pytest.mark.parametrize("child", ["works.queue.decoder_child", "works.video.capture_child", "works.jobs.helper_child"])
def test_a_child_loads_neither_the_web_server_nor_the_database(child: str) -> None:
    loaded = loaded_by(f"import {child}")
    assert "cv2" in loaded
    assert loaded & {"tornado", "sqlite3", "jwt", "handlers", "config"} == set()
