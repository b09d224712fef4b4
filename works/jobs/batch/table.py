"""A table with the result of each target of a job, written row by row: CSV for spreadsheets, JSON for programs.

A spreadsheet runs a cell that looks like a formula, and names come from untrusted users. In the CSV such cells have an
apostrophe in front (OWASP, CSV Injection). The JSON has all values unchanged.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Characters that start a formula, also in the full-width form of East Asian keyboards, after characters that are
# skipped.
_FORMULA = re.compile(r"[\s\x00-\x20\ufeff\u200b]*[=+\-@\uff0b\uff0d\uff1d\uff20|%]|[\t\r\n]")
# Maximum number of characters of a cell in a spreadsheet.
_LONGEST_CELL = 32_000


class Table:
    """Two files in ``folder``: ``table.csv`` and ``table.json`` (a list of objects).

    Its methods wait for the disk and raise OSError when it is full. It must be closed.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.csv, self.json = folder / "table.csv", folder / "table.json"
        self._columns, self._rows = columns, 0
        # The byte order mark tells spreadsheets that the file is UTF-8.
        self._csv = self.csv.open("w", encoding="utf-8-sig", newline="", errors="replace")
        self._json = self.json.open("w", encoding="utf-8", errors="replace")
        self._writer = csv.writer(self._csv, quoting=csv.QUOTE_ALL)
        self._writer.writerow(columns)

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row of JSON values. Missing columns are left empty."""
        self._writer.writerow([cell(row.get(column)) for column in self._columns])
        self._json.write(f"{',' if self._rows else '['}\n{json.dumps(row, ensure_ascii=False)}")
        self._rows += 1

    def finish(self) -> None:
        """Completes both files."""
        self._json.write("\n]\n" if self._rows else "[]\n")
        self.close()

    def close(self) -> None:
        try:
            self._csv.close()
        finally:
            self._json.close()


def cell(value: Any) -> str:
    """Returns a value as a cell that no spreadsheet treats as a formula."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("\0", "")[:_LONGEST_CELL]
    return f"'{text}" if _FORMULA.match(text) else text
