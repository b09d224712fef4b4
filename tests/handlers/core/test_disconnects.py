"""Tests that the tables of closes and refusals in docs/protocol.md match the server exactly."""

import re
from typing import get_args

import pytest

from handlers.core.disconnects import DISCONNECTS, RECONNECT_CODES, Disconnect
from handlers.core.refusals import REFUSALS, STATUS
from tests.support.running import ROOT
from works.errors import Code

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()


def table(head: str) -> list[tuple[str, ...]]:
    """Returns the rows of the table that starts with the line ``head``. The cells have no backquotes."""
    assert PROTOCOL.count(f"{head}\n") == 1
    rows = PROTOCOL[PROTOCOL.index(head) :].partition("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip().strip("`") for cell in row.strip("|").split("|")) for row in rows]


def test_every_close_is_documented_with_reason_and_reconnect_advice() -> None:
    known = [(str(each.code), each.reason, "no" if each.final else "yes") for each in DISCONNECTS]
    assert [row[:3] for row in table("| code | reason | reconnect? | when |")] == known


def test_every_refusal_is_documented_with_its_status_and_its_code() -> None:
    known = [(str(each.status), each.code, each.message) for each in REFUSALS]
    assert [row[:3] for row in table("| status | code | message | when |")] == known


def test_every_error_code_is_documented_with_its_status() -> None:
    assert {row[0]: int(row[1]) for row in table("| code | HTTP | what it means |")} == STATUS
    assert set(STATUS) == set(get_args(Code))


def test_the_close_code_alone_determines_whether_to_reconnect() -> None:
    assert sorted(RECONNECT_CODES) == [1012, 4408, 4508]
    assert not RECONNECT_CODES & {each.code for each in DISCONNECTS if each.final}


@pytest.mark.parametrize("each", DISCONNECTS, ids=lambda each: f"{each.code} {each.reason}")
def test_a_reason_fits_into_a_close_frame(each: Disconnect) -> None:
    """RFC 6455, section 5.5: a close frame has at most 125 bytes, and the code takes two of them.

    Each placeholder is replaced by 30 characters, because the numbers and names that fill placeholders are short.
    """
    assert len(re.sub(r"\{[^}]*\}", "x" * 30, each.reason).encode()) <= 123


def test_the_metric_labels_do_not_change_for_existing_dashboards() -> None:
    assert {each.cause for each in DISCONNECTS if each.cause} == {"inbox", "rate", "slow_reader"}
    tokens = {"bad", "expired", "ip_mismatch", "missing"}
    assert {each.cause for each in REFUSALS if each.cause} == tokens | {"denied", "restarting", "too_many_connections"}


def test_no_other_file_has_close_codes() -> None:
    """Closes without a code are ignored: Tornado sends them, as the older protocol requires."""
    found = [
        f"{path.name}:{number}"
        for path in (ROOT / "handlers").rglob("*.py")
        if path.name != "disconnects.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\.(close|abort|disconnect)\((code=)?\d", line)
    ]
    assert found == []
