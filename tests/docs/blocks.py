"""The code blocks of README.md and docs/*.md: their places, languages and marks.

A mark is an HTML comment on the last line before the block, which readers of the page do not see:

- ``<!-- form -->``: shows only a form and is not run.
- ``<!-- output -->``: the output of the shell block before it. ``...`` stands for any text.
- ``<!-- own origin -->``: for a page that the server itself has served. All others run on a page of another origin.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.running import ROOT

FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# The language of an indented block.
INDENTED = "sh"
_FENCE, _INDENT = "```", "    "
_MARK = re.compile(r"<!-- (.+) -->")


@dataclass(frozen=True, slots=True)
class Block:
    file: str
    line: int
    """Line number of the first line of code, counted from 1."""
    section: str
    """Text of the last heading of level 2 before the block."""
    language: str
    """The info string of a fence, or `INDENTED` for a block without fences."""
    mark: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def blocks_in(text: str, file: str) -> Iterator[Block]:
    """Yields every fenced and every indented block, in order. Raises ValueError for a fence that is not closed."""
    lines = text.splitlines()
    section = mark = ""
    number = 0
    while number < len(lines):
        line, first = lines[number], number
        if line.startswith(_FENCE):
            number = first + 1
            while number < len(lines) and not lines[number].startswith(_FENCE):
                number += 1
            if number == len(lines):
                raise ValueError(f"{file}:{first + 1}: this fence is not closed")
            yield Block(file, first + 2, section, line[3:].strip(), mark, _joined(lines[first + 1 : number]))
            mark = ""
        elif line.startswith(_INDENT) and not (first and lines[first - 1].strip()):
            while number + 1 < len(lines) and (lines[number + 1].startswith(_INDENT) or not lines[number + 1].strip()):
                number += 1
            body = [each.removeprefix(_INDENT) for each in lines[first : number + 1]]
            yield Block(file, first + 1, section, INDENTED, mark, _joined(body))
            mark = ""
        elif line.strip():
            section = line[3:] if line.startswith("## ") else section
            found = _MARK.fullmatch(line)
            mark = found[1] if found else ""
        number += 1


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"


def blocks_of(path: Path) -> list[Block]:
    return list(blocks_in(path.read_text(), str(path.relative_to(ROOT))))


BLOCKS = [block for path in FILES for block in blocks_of(path)]


def under(file: str, section: str = "") -> list[Block]:
    """Returns the blocks of a file, or of its section whose heading starts with this text."""
    return [block for block in BLOCKS if block.file == file and block.section.startswith(section)]
