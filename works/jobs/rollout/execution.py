"""Runs a rollout: its stages in batches, until all are done, too many hosts have failed, or the deadline has passed.

In every case each host ends in exactly one final state, before the deadline of the plan.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from works.jobs import JobContext, JobFailed
from works.jobs.rollout.host_run import HostRun
from works.jobs.rollout.inventory import Inventory
from works.jobs.rollout.plan import HealthCheck, Plan, Stage, share
from works.jobs.rollout.settings import RolloutSettings

# Maximum number of hosts that are named in a question or a result.
_MAX_NAMED = 100


class RolloutStopped(JobFailed):
    """The rollout must stop. Stages with ``rollback: all`` are then rolled back."""


class RolloutExecution:
    """``make_run`` creates the HostRun of a host outside the rollout, for health checks."""

    def __init__(
        self,
        context: JobContext,
        inventory: Inventory,
        plan: Plan,
        hosts: Iterable[HostRun],
        make_run: Callable[[str], HostRun],
        settings: RolloutSettings,
        *,
        dry: bool,
    ) -> None:
        self._context, self._plan, self._make_run = context, plan, make_run
        self._dry, self._kill_timeout = dry, settings.rollout_kill_timeout
        self._hosts = {host.name: host for host in hosts}
        self._stages = [
            (stage, [name for name in inventory.members(stage.hosts or plan.hosts) if name in self._hosts])
            for stage in plan.stages
        ]
        self._health_hosts = {
            id(stage): inventory.members(stage.health.hosts or []) for stage in plan.stages if stage.health
        }
        self._stages_left = Counter(name for _, names in self._stages for name in names)
        self._total = self._stages_left.total()
        self._allowed = share(plan.budget, len(self._hosts))
        # Whether a finished stage may still have to be rolled back on its hosts.
        self._may_undo_all = any(stage.rollback and stage.rollback.hosts == "all" for stage in plan.stages)
        self._timeout = asyncio.timeout(None)

    async def run(self) -> None:
        """Runs all stages. Raises JobFailed when some did not succeed, or after a cancel."""
        # Leaves time to stop running commands before the deadline.
        timeout = max(self._plan.deadline - self._kill_timeout - 1, self._plan.deadline / 2)
        ended: JobFailed | None = None
        try:
            async with self._timeout:
                self._timeout.reschedule(asyncio.get_running_loop().time() + timeout)
                await self._run_stages()
        except TimeoutError:
            ended = JobFailed("timeout", f"the rollout did not finish within {self._plan.deadline:g} s (deadline)")
        except asyncio.CancelledError:
            ended = JobFailed("cancelled", "the rollout was cancelled")
        except JobFailed as error:
            ended = error
        for host in self._hosts.values():
            await self._settle(host, ended)
        if ended:
            raise ended

    async def _run_stages(self) -> None:
        try:
            for stage, names in self._stages:
                hosts = [self._hosts[name] for name in names if not self._hosts[name].failed]
                if hosts:
                    await self._context.stage(stage.name)
                    await self._run_stage(stage, hosts)
        except RolloutStopped:
            await self._roll_back_all()
            raise
        self._check_budget()

    async def _run_stage(self, stage: Stage, hosts: list[HostRun]) -> None:
        sizes = [len(hosts)] if self._dry else stage.sizes(len(hosts))
        for number, size in enumerate(sizes):
            batch, hosts = hosts[:size], hosts[size:]
            await self._wait_for_approval(stage, number, len(sizes), batch)
            await self._log(f"{stage.name}: batch {number + 1} of {len(sizes)}, {_count(batch)}")
            await self._run_batch(stage, batch)
            if not self._dry:
                self._check_budget()

    async def _run_batch(self, stage: Stage, batch: list[HostRun]) -> None:
        health = None if self._dry else stage.health

        async def run_steps(host: HostRun) -> None:
            if not self._over_budget():
                await host.work(stage)
                if host.failed or health is None or health.hosts:
                    await self._finish(stage, host)

        async def check_health(host: HostRun) -> None:
            await host.check_health(health or HealthCheck(command="false"))
            await self._finish(stage, host)

        await _for_each(batch, stage.forks, run_steps)
        if health and health.hosts:
            await self._check_others(stage, health)
        elif health:
            await _for_each([host for host in batch if self._is_begun(stage, host)], stage.forks, check_health)

    def _is_begun(self, stage: Stage, host: HostRun) -> bool:
        return not host.failed and stage.name in host.begun

    async def _check_others(self, stage: Stage, health: HealthCheck) -> None:
        for name in self._health_hosts[id(stage)]:
            host = self._make_run(name)
            await host.check_health(health)
            if host.failed:
                raise RolloutStopped("unhealthy", f"after a batch of {stage.name}, {name}: {host.reason}")

    async def _finish(self, stage: Stage, host: HostRun) -> None:
        """Called when the stage has ended on this host."""
        self._stages_left[host.name] = 0 if host.failed else self._stages_left[host.name] - 1
        if not host.failed:
            host.done.append(stage.name)
        elif not self._dry:
            await host.roll_back(stage)
        if not self._stages_left[host.name] and not self._may_undo_all:
            await host.settle()
        await self._context.progress(self._total - self._stages_left.total(), self._failed(), self._total)

    def _failed(self) -> int:
        return sum(host.failed for host in self._hosts.values())

    def _over_budget(self) -> bool:
        return not self._dry and self._failed() > self._allowed

    def _check_budget(self) -> None:
        if (failed := self._failed()) > self._allowed:
            raise RolloutStopped(
                "budget", f"{failed} of {len(self._hosts)} hosts failed; the budget is {self._allowed}"
            )

    async def _wait_for_approval(self, stage: Stage, number: int, of: int, batch: list[HostRun]) -> None:
        """Waits for a person's approval where the plan requires it. This time does not count for the deadline."""
        if self._dry or not stage.needs_approval(number):
            return
        loop = asyncio.get_running_loop()
        left = (self._timeout.when() or loop.time()) - loop.time()
        self._timeout.reschedule(None)
        names = [host.name for host in batch]
        question = f"{stage.name}: go on with batch {number + 1} of {of}, {_count(batch)}?"
        who = await self._context.approve(question, stage=stage.name, batch=number + 1, hosts=names[:_MAX_NAMED])
        self._timeout.reschedule(loop.time() + left)
        await self._log(f"{stage.name}: batch {number + 1} was approved by {who}")

    async def _roll_back_all(self) -> None:
        """Rolls back the stages whose plan has ``all``, the last stage first."""
        for stage, names in reversed(self._stages):
            if not self._dry and stage.rollback and stage.rollback.hosts == "all":
                await self._context.stage(f"rollback of {stage.name}")
                hosts = [self._hosts[name] for name in names]
                await _for_each(hosts, stage.forks, partial(_roll_back, stage))

    async def _settle(self, host: HostRun, ended: JobFailed | None) -> None:
        why = ended.message if ended else ""
        if host.failed or not self._stages_left[host.name]:
            return await host.settle()
        if set(host.begun) == set(host.done):
            following = next((stage.name for stage, names in self._stages if self._is_next(stage, names, host)), "")
            return await host.settle("not_started", f"{why}, before its stage {following}", done=host.done)
        uncertainty = "" if host.known else "; it is not known whether its command has ended"
        if ended and ended.code == "timeout":
            host.fail("timeout", f"{why}{uncertainty}")
        await host.settle("cancelled", f"{why}{uncertainty}")

    @staticmethod
    def _is_next(stage: Stage, names: list[str], host: HostRun) -> bool:
        return host.name in names and stage.name not in host.done

    async def _log(self, line: str) -> None:
        await self._context.log(line)

    def result(self) -> dict[str, Any]:
        """Returns the number of hosts in each final state, and the hosts that failed or are in an unknown state."""
        hosts = self._hosts.values()
        bad = {host.name: host.reason for host in hosts if host.state in ("failed", "unreachable")}
        return {
            "states": dict(Counter(host.state for host in hosts)),
            "failed": dict(list(bad.items())[:_MAX_NAMED]),
            "not_known": [host.name for host in hosts if not host.known][:_MAX_NAMED],
        }


def _count(hosts: list[HostRun]) -> str:
    return f"{len(hosts)} host{'s' if len(hosts) > 1 else ''}"


async def _roll_back(stage: Stage, host: HostRun) -> None:
    await host.roll_back(stage)


async def _for_each(hosts: list[HostRun], forks: int, work: Callable[[HostRun], Awaitable[None]]) -> None:
    """Runs ``work`` for each host in order, for ``forks`` hosts at the same time."""
    waiting = deque(hosts)

    async def worker() -> None:
        while waiting:
            await work(waiting.popleft())

    async with asyncio.TaskGroup() as group:
        for _ in range(min(forks, len(hosts))):
            group.create_task(worker())
