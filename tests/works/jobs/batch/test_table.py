"""The table of a job: complete as JSON, and as CSV safe to open in a spreadsheet."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.pictures import encoded, photograph
from tests.support.recording import recording
from works.jobs.batch.table import Table, cell


def written(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    table = Table(tmp_path, ["name", "value"])
    for row in rows:
        table.add(row)
    table.finish()
    text = table.csv.read_bytes().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline=""))), json.loads(table.json.read_bytes())


@pytest.mark.parametrize(
    "name",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\t=1+1",
        "\r=1",
        "\n=1",
        "  =1+1",
        "\u00a0=1",
        "\uff1d1+1",
        "\uff0b1",
        "\uff20a",
        '=HYPERLINK("http://x")',
        "=cmd|' /C calc'!A0",
        "\ufeff=1",
        "\u200b@a",
        "\0=1",
    ],
)
def test_no_cell_is_a_formula(tmp_path: Path, name: str) -> None:
    (row,), (whole,) = written(tmp_path, [{"name": name, "value": [name]}])
    assert row["name"].startswith("'")
    assert row["value"].startswith("[")
    assert whole == {"name": name, "value": [name]}


@pytest.mark.parametrize(
    "name", ["a.jpg", "10-2.jpg", "a=b", "\u65e5\u672c.png", 'quo"te,comma;semi.jpg', "two\nlines"]
)
def test_all_other_values_are_unchanged(tmp_path: Path, name: str) -> None:
    rows, whole = written(tmp_path, [{"name": name, "value": 1.5}, {"name": name}])
    assert rows == [{"name": name, "value": "1.5"}, {"name": name, "value": ""}]
    assert whole == [{"name": name, "value": 1.5}, {"name": name}]


def test_negative_numbers_are_numbers() -> None:
    assert (cell(-1), cell(-0.5), cell(None), cell(True)) == ("-1", "-0.5", "", "True")


def test_a_table_without_rows_is_valid(tmp_path: Path) -> None:
    assert written(tmp_path, []) == ([], [])


def test_no_cell_is_longer_than_spreadsheets_take(tmp_path: Path) -> None:
    (row,), (whole,) = written(tmp_path, [{"name": "x" * 100_000}])
    assert len(row["name"]) == 32_000
    assert len(whole["name"]) == 100_000


async def test_names_of_pictures_are_never_formulas_in_the_table_of_a_batch(tmp_path: Path) -> None:
    async with recording(tmp_path) as job:
        for name in ("=cmd|' !A0.jpg", "-2+3.jpg"):
            (tmp_path / "scans" / name).write_bytes(encoded(photograph()))
        (tmp_path / "scans").joinpath(b"caf\xe9.jpg".decode("utf-8", "surrogateescape")).write_bytes(
            encoded(photograph())
        )
        result = await job.do("batch", folder="scans")
        assert [row["picture"] for row in job.cells(result)] == ["'-2+3.jpg", "'=cmd|' !A0.jpg", "caf\ufffd.jpg"]
        assert [row["picture"] for row in job.rows(result)] == ["-2+3.jpg", "=cmd|' !A0.jpg", "caf\ufffd.jpg"]
        assert set(job.unzipped(result)) == {"-2+3.jpg", "=cmd|' !A0.jpg", "caf\ufffd.jpg"}
