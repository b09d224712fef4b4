"""One host in a rollout: the steps that were run on it, and its one final state."""

import asyncio
from collections.abc import Sequence
from typing import Any

from works.jobs import JobContext
from works.jobs.rollout.inventory import Target
from works.jobs.rollout.output import Output
from works.jobs.rollout.plan import HealthCheck, Stage, Step, script
from works.jobs.rollout.settings import RolloutSettings
from works.jobs.rollout.ssh import ConnectionBroken, Exit, Ssh, SshConnection, Unreachable

# Last steps in the final state. The log has all steps.
_MAX_STEPS = 50


class HostFailed(Exception):
    """A failure on a host. ``code`` is one of those of Unreachable, or step, timeout, lost, internal."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class HostRun:
    """The steps on one host. ``begun``: stages of which something was run here. ``done``: stages that have ended well.

    ``dry``: only checks are run. The final state is reported once, by ``settle``.
    """

    def __init__(
        self, target: Target, context: JobContext, ssh: Ssh, settings: RolloutSettings, *, dry: bool = False
    ) -> None:
        self.target = target
        self.name = target.name
        self.begun: list[str] = []
        self.done: list[str] = []
        self.rolled_back: list[str] = []
        self.state = ""
        """Final state of the host, or an empty string before its end."""
        self.code = self.reason = ""
        self.failed = self.changed = False
        self.known = True
        """Whether all commands that were started on the host are known to have ended."""
        self._exit: int | None = None
        self._steps: list[dict[str, Any]] = []
        self._rollback_notes: list[str] = []
        self._reporting: asyncio.Future[None] | None = None
        self._context, self._ssh, self._dry = context, ssh, dry
        self._kill_timeout = settings.rollout_kill_timeout
        self._output = Output(settings.rollout_output, settings.rollout_tail)

    async def work(self, stage: Stage) -> None:
        """Runs the steps of the stage and records a failure. Raises only CancelledError, after the command has been
        stopped.
        """
        await self._context.target(self.name, "running", stage=stage.name)
        try:
            await self._run_steps(stage.steps, stage.host_timeout, stage.name)
        except HostFailed as error:
            self.fail(error.code, str(error))

    async def roll_back(self, stage: Stage) -> None:
        """Rolls the stage back if it was started here. The host then counts as failed."""
        if stage.rollback is None or stage.name not in self.begun or stage.name in self.rolled_back:
            return
        await self._context.target(self.name, "rolling_back", stage=stage.name)
        exit_status = self._exit
        if not self.failed:
            self.fail("rolled_back", "the rollout was stopped")
        self._rollback_notes.append(f"the rollback of {stage.name} was not finished")
        try:
            await self._run_steps(stage.rollback.steps, stage.host_timeout)
        except HostFailed as error:
            self._rollback_notes[-1] = f"the rollback of {stage.name} failed too: {error}"
        else:
            self.rolled_back.append(stage.name)
            self._rollback_notes[-1] = f"{stage.name} was rolled back"
        finally:
            self._exit = exit_status

    async def check_health(self, health: HealthCheck) -> None:
        """Repeats the health check until the host is healthy, at most ``health.attempts`` times. Raises HostFailed."""
        if why := await self._health_failure(health):
            self.fail("unhealthy", f"the health check failed: {why}")

    async def _health_failure(self, health: HealthCheck) -> str:
        why = ""
        for attempt in range(health.attempts):
            await asyncio.sleep(health.pause if attempt else 0)
            try:
                async with self._ssh.login(self.target) as connection:
                    outcome = await self._run(connection, health.command, health.timeout)
            except (Unreachable, ConnectionBroken, HostFailed) as error:
                why = str(error)
            else:
                if outcome.status == 0:
                    return ""
                why = _describe_exit(outcome)
        return f"{why} ({health.attempts} attempts)"

    async def _run_steps(self, steps: Sequence[Step], timeout: float, stage: str = "") -> None:
        """Runs the steps over one connection, within ``timeout`` seconds. Raises HostFailed."""
        try:
            async with asyncio.timeout(timeout), self._ssh.login(self.target) as connection:
                if stage:
                    self.begun.append(stage)
                for step in steps:
                    await self._run_step(connection, step)
        except TimeoutError:
            raise HostFailed("timeout", f"it did not finish within {timeout:g} s (host_timeout)") from None
        except Unreachable as error:
            raise HostFailed(error.code, str(error)) from None
        except ConnectionBroken as error:
            self.known = self.known and not error.begun
            raise HostFailed("lost", str(error)) from None
        except (HostFailed, asyncio.CancelledError):
            raise
        except Exception as error:
            # Data from a host may cause any error in a library. The other hosts must continue.
            raise HostFailed("internal", f"{type(error).__name__}: {error}"[:300]) from error

    async def _run_step(self, connection: SshConnection, step: Step) -> None:
        if step.check is not None:
            outcome = await self._run(connection, step.check, step.timeout, f"{step.name}, its check")
            if outcome.status == 0:
                return await self._record_step(step, "ok", outcome)
            if outcome.status != 1:
                await self._record_step(step, "failed", outcome)
                raise HostFailed(
                    "step", f"{step.name}: its check failed: {_describe_exit(outcome)}; 0 or 1 is an answer"
                )
        if self._dry:
            await self._context.log(f"would run: {step.command.strip()}", self.name)
            return await self._record_step(step, "ok" if step.changed_when == "never" else "changed", None)
        self._output.watch_for(step.marker)
        outcome = await self._run(connection, step.command, step.timeout, step.name)
        changes = None if outcome.status is None else step.changes(outcome.status, self._output.marked)
        await self._record_step(step, "failed" if changes is None else "changed" if changes else "ok", outcome)
        if changes is None:
            raise HostFailed("step", f"{step.name}: {_describe_exit(outcome)}")

    async def _record_step(self, step: Step, state: str, outcome: Exit | None) -> None:
        self.changed = self.changed or state == "changed"
        self._exit = outcome.status if outcome else None
        self._steps.append({"step": step.name, "state": state, **({"exit": outcome.status} if outcome else {})})
        await self._context.log(f"{step.name}: {'would be ' if self._dry else ''}{state}", self.name)

    async def _run(self, connection: SshConnection, command: str, timeout: float, what: str = "it") -> Exit:
        """Runs a command for at most ``timeout`` seconds, then stops it. Raises HostFailed."""
        try:
            async with asyncio.timeout(timeout):
                return await connection.run(script(command, self.target.values), self._log_output)
        except TimeoutError:
            uncertainty = "" if await self._stop(connection) else "; it is not known whether it has ended"
            raise HostFailed("timeout", f"{what} did not finish within {timeout:g} s{uncertainty}") from None
        except asyncio.CancelledError:
            await self._stop(connection)
            raise
        finally:
            for line in self._output.rest():
                await self._context.log(line, self.name)

    async def _stop(self, connection: SshConnection) -> bool:
        known = False
        try:
            known = await connection.stop(self._kill_timeout)
        finally:
            self.known = self.known and known
        return known

    async def _log_output(self, data: bytes) -> None:
        for line in self._output.feed(data):
            await self._context.log(line, self.name)

    def fail(self, code: str, reason: str) -> None:
        self.failed, self.code, self.reason = True, code, reason

    async def settle(self, state: str = "", reason: str = "", **more: Any) -> None:
        """Reports the final state: ``state``, or the outcome of the steps. A later call only waits for that report."""
        if self._reporting is None:
            if self.failed:
                self.state = "failed" if self.begun else "unreachable"
                self.reason = "; ".join([self.reason, *self._rollback_notes])
            else:
                self.state = state or ("changed" if self.changed else "ok")
                self.reason = reason
            members = {name: value for name, value in (self._state_members() | more).items() if value not in ("", [])}
            self._reporting = asyncio.ensure_future(self._context.target(self.name, self.state, **members))
            if self.failed:
                await self._context.log(f"{self.state}: {self.reason}", self.name)
        # A cancel at this moment must not lose the report.
        await asyncio.shield(self._reporting)

    def _state_members(self) -> dict[str, Any]:
        """Returns the members of the final state."""
        members: dict[str, Any] = {
            "code": self.code,
            "reason": self.reason,
            "output": self._output.tail,
            "steps": self._steps[-_MAX_STEPS:],
            "rolled_back": self.rolled_back,
        }
        if self._output.total:
            members["output_bytes"] = self._output.total
        if self._exit is not None:
            members["exit"] = self._exit
        if not self.known:
            members["known"] = False
        return members


def _describe_exit(outcome: Exit) -> str:
    return f"exit status {outcome.status}" if outcome.status is not None else f"ended by SIG{outcome.signal}"
