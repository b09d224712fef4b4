"""A table of what a job did to each thing, written row by row: CSV for spreadsheets, JSON for programs.

A spreadsheet takes a cell that begins like a formula for one, and names come from strangers: such cells have an
apostrophe before them in the CSV (OWASP, CSV Injection). The JSON has everything as it is.
"""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# What begins a formula, in the widths of East Asian keyboards too, after whatever a spreadsheet skips.
_FORMULA = re.compile(r"[\s\x00-\x20\ufeff\u200b]*[=+\-@\uff0b\uff0d\uff1d\uff20|%]|[\t\r\n]")
# Spreadsheets take 32,767 characters in a cell.
_LONGEST_CELL = 32_000


class Table:
    """Two files in ``folder``, ``table.csv`` and ``table.json`` (a list of objects). Waits for the disk; to be closed.

    Raises OSError when that is full.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.csv, self.json = folder / "table.csv", folder / "table.json"
        self._columns, self._rows = columns, 0
        # With a mark, by which spreadsheets know UTF-8.
        self._csv = self.csv.open("w", encoding="utf-8-sig", newline="", errors="replace")
        self._json = self.json.open("w", encoding="utf-8", errors="replace")
        self._writer = csv.writer(self._csv, quoting=csv.QUOTE_ALL)
        self._writer.writerow(columns)

    def add(self, row: dict[str, Any]) -> None:
        """Values that JSON has; what is missing of the columns is left empty."""
        self._writer.writerow([cell(row.get(column)) for column in self._columns])
        self._json.write(f"{',' if self._rows else '['}\n{json.dumps(row, ensure_ascii=False)}")
        self._rows += 1

    def finish(self) -> None:
        """Both files are whole after this."""
        self._json.write("\n]\n" if self._rows else "[]\n")
        self.close()

    def close(self) -> None:
        try:
            self._csv.close()
        finally:
            self._json.close()


def cell(value: Any) -> str:
    """A value as a cell that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    if isinstance(value, bool | int | float):
        return str(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("\0", "")[:_LONGEST_CELL]
    return f"'{text}" if _FORMULA.match(text) else text
