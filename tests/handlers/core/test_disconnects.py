"""Disconnects and refusals: what docs/protocol.md says of them is what the server does, and the other way round."""

import re
from typing import get_args

import pytest

from handlers.core.disconnects import DISCONNECTS, RECONNECT_CODES, Disconnect
from handlers.core.refusals import REFUSALS, STATUS
from tests.support.running import ROOT
from works.errors import Code

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def table(head: str) -> list[tuple[str, ...]]:
    """The rows of the table that begins with this line, each cell without its backquotes."""
    assert PROTOCOL.count(f"{head}\n") == 1
    rows = PROTOCOL[PROTOCOL.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip().strip("`") for cell in row.strip("|").split("|")) for row in rows]


def test_every_close_is_documented_with_its_reason_and_whether_to_reconnect() -> None:
    known = [(str(each.code), each.reason, "no" if each.final else "yes") for each in DISCONNECTS]
    assert [row[:3] for row in table("| code | reason | reconnect? | when |")] == known


def test_every_refusal_is_documented_with_its_status_and_its_code() -> None:
    known = [(str(each.status), each.code, each.message) for each in REFUSALS]
    assert [row[:3] for row in table("| status | code | message | when |")] == known


def test_every_error_code_is_documented_with_its_status() -> None:
    assert {row[0]: int(row[1]) for row in table("| code | HTTP | what it means |")} == STATUS
    assert set(STATUS) == set(get_args(Code))


def test_the_code_alone_says_whether_to_reconnect() -> None:
    assert sorted(RECONNECT_CODES) == [1012, 4408, 4508]
    assert not RECONNECT_CODES & {each.code for each in DISCONNECTS if each.final}


@pytest.mark.parametrize("each", DISCONNECTS, ids=lambda each: f"{each.code} {each.reason}")
def test_a_reason_fits_into_a_close_frame(each: Disconnect) -> None:
    """RFC 6455, 5.5: at most 125 bytes, of which the code takes two. Numbers and names are short."""
    assert len(re.sub(r"\{[^}]*\}", "x" * 30, each.reason).encode()) <= 123


def test_the_labels_of_the_metric_are_those_that_dashboards_know() -> None:
    assert {each.cause for each in DISCONNECTS if each.cause} == {"inbox", "rate", "slow_reader"}
    tokens = {"bad", "expired", "ip_mismatch", "missing"}
    assert {each.cause for each in REFUSALS if each.cause} == tokens | {"denied", "restarting", "too_many_connections"}


def test_no_other_file_has_close_codes() -> None:
    """A close without a code is Tornado's own, as the older protocol has it."""
    found = [
        f"{path.name}:{number}"
        for path in (ROOT / "handlers").rglob("*.py")
        if path.name != "disconnects.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\.(close|abort|disconnect)\((code=)?\d", line)
    ]
    assert found == []
