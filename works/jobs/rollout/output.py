"""The output of a host, within limits of bytes and line length, whatever the host sends.

The lines are text but may contain control characters, which a JobContext removes.
"""

import codecs
import re

# Maximum number of characters of one line. The rest becomes another line.
_MOST_LINE = 2000


class Output:
    """Splits bytes into lines: the first ``live`` bytes as they arrive, and the last ``kept`` bytes at any time."""

    def __init__(self, live: int, kept: int) -> None:
        self.total = 0
        self.marked = False
        """Whether the marker text was found in the output."""
        self._live, self._kept = live, kept
        self._last = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._marker = self._unmatched = b""

    def watch_for(self, marker: str | None) -> None:
        self._marker, self._unmatched, self.marked = (marker or "").encode(), b"", False

    def feed(self, data: bytes) -> list[str]:
        """Adds bytes. Returns the lines that are now complete and within the limit."""
        self._find_marker(data)
        room = self._live - self.total
        self.total += len(data)
        self._last = (self._last + data[-self._kept :])[-self._kept :]
        if room <= 0:
            return []
        lines = self._lines(self._decoder.decode(data[:room]))
        if len(data) > room:
            lines += [*self.rest(), "(it prints more than is shown here; the end of it is kept with the host's state)"]
        return lines

    def rest(self) -> list[str]:
        """Returns the last line if no line break has ended it. Later output starts a new line."""
        line, self._line = self._line + self._decoder.decode(b"", final=True), ""
        self._decoder.reset()
        return [line.removesuffix("\r")] if line else []

    @property
    def tail(self) -> str:
        """Returns the end of the output, with a note when earlier output is cut."""
        text = self._last.decode("utf-8", "replace")
        cut = self.total - len(self._last)
        return f"({cut:,} earlier bytes were dropped)\n{text}" if cut else text

    def _find_marker(self, data: bytes) -> None:
        if self._marker and not self.marked:
            self.marked = self._marker in self._unmatched + data
            self._unmatched = (self._unmatched + data)[-len(self._marker) :]

    def _lines(self, text: str) -> list[str]:
        # A carriage return ends a line too. A program that draws a progress bar prints no other line break for minutes.
        *lines, self._line = re.split(r"\r?\n|\r(?=[^\n])", self._line + text)
        if len(self._line) > _MOST_LINE:
            lines, self._line = [*lines, self._line], ""
        return [line[at : at + _MOST_LINE] for line in lines for at in range(0, max(len(line), 1), _MOST_LINE)]
