"""The tutorial of docs/jobs.md, a rollout on twenty hosts, followed step by step with twenty real sshd."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import Block, under
from tests.docs.terminal import Command, Terminal, commands
from tests.support.ports import free_port

pytestmark = pytest.mark.chaos


def ports_in_a_row(count: int) -> int:
    """Returns the first of this many consecutive free ports."""
    while True:
        ports = [free_port() for _ in range(count)]
        if ports == list(range(ports[0], ports[0] + count)):
            return ports[0]


class Rollouts:
    """The terminals of a user who follows the tutorial: one watches, one answers."""

    def __init__(self, terminal: Terminal, first_port: int) -> None:
        self._terminal, self._first = terminal, first_port
        self.id = ""

    def local(self, text: str) -> str:
        text = text.replace("start var/hosts", f"start var/hosts 20 {self._first}")
        return text.replace("22013", str(self._first + 12)).replace("ID", self.id)

    def run(self, block: Block) -> str:
        return self._terminal.run(self.local(block.text))

    def watch(self, block: Block) -> Command:
        """Runs a block whose last command watches a job. Later placeholders ID are replaced by the id of this job."""
        *before, last = commands(self.local(block.text))
        self._terminal.run("\n".join(before))
        shown = self._terminal.start(last)
        if " watch " not in last:
            shown.until("\n")
            self.id = shown.output.partition("\n")[0]
        return shown

    def answer(self, block: Block, shown: Command) -> None:
        """Gives each answer when it is requested."""
        for command in commands(self.local(block.text)):
            (approval,) = re.findall(r"approval-\d", command)
            shown.until(f"{self.id} {approval} ")
            self._terminal.run(command)


def test_the_tutorial_of_rollouts_works_as_written(tmp_path: Path) -> None:
    with Terminal(tmp_path) as terminal:
        follow(terminal)


def follow(terminal: Terminal) -> None:
    install, hosts, server, uptime, dry, release, watch, answer, broken, output, mended, cancelled, clear = under(
        "docs/jobs.md", "Tutorial"
    )
    script = terminal.folder / "docs/examples/hosts.sh"
    # Prevents bash from reading ~/.bashrc for each command of a rollout, which may take a second.
    script.write_text(script.read_text().replace("StrictModes no", "StrictModes no\nSetEnv SHLVL=3"))
    rollouts = Rollouts(terminal, ports_in_a_row(20))
    for block in (install, hosts, server):
        rollouts.run(block)
    try:
        assert "20 ok" in rollouts.run(uptime)
        assert "would run" in rollouts.run(dry)

        begun = rollouts.watch(release)
        begun.until("approval-1")
        assert begun.interrupt() == 130
        shown = rollouts.watch(watch)
        rollouts.answer(answer, shown)
        assert (shown.wait(), "20 changed" in shown.output) == (0, True)

        shown = rollouts.watch(broken)
        rollouts.answer(answer, shown)
        assert shown.wait() == 1
        for line in rollouts.local(output.text).splitlines():
            assert re.search(re.escape(line).replace(r"\.\.\.", ".*"), shown.output), shown.output

        shown = rollouts.watch(mended)
        rollouts.answer(answer, shown)
        assert shown.wait() == 0
        ((changed, skipped),) = re.findall(r"(\d+) changed, (\d+) skipped", shown.output)
        assert (int(changed) >= 3, int(changed) + int(skipped)) == (True, 20)

        start, cancel = commands(cancelled.text)
        shown = rollouts.watch(Block("", 0, "", "sh", "", start))
        rollouts.run(Block("", 0, "", "sh", "", cancel))
        assert (shown.wait(), "== cancelled" in shown.output) == (1, True)
    finally:
        rollouts.run(clear)
