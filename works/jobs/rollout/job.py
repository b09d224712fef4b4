"""The job kind ``rollout``: runs a named plan on many hosts over SSH. Users cannot send commands of their own."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from works.jobs import JobContext, JobFailed, job
from works.jobs.rollout.settings import RolloutSettings

if TYPE_CHECKING:
    from works.jobs.rollout.inventory import Inventory
    from works.jobs.rollout.plan import Plan
    from works.jobs.rollout.ssh import Ssh


class RolloutParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    plan: str = Field(
        min_length=1,
        max_length=100,
        description="Name of a plan in the file of plans (setting plans).",
        json_schema_extra={"from": "plans"},
    )
    params: dict[str, bool | int | str] = Field(
        default={},
        max_length=100,
        description="Parameters of the plan, by name. The plan defines which values they may have.",
    )
    hosts: list[str] | None = Field(
        None, min_length=1, max_length=10_000, description="Hosts or groups of the plan. Empty: all of them."
    )
    dry_run: bool = Field(False, description="true runs only the checks of the plan and reports what it would change.")


@job
async def rollout(context: JobContext, params: RolloutParams) -> dict[str, Any] | None:
    """Runs a named plan on many hosts over SSH, in stages and batches, until all are done or too many have failed."""
    settings = context.resources.rollout
    try:
        from works.jobs.rollout.execution import RolloutExecution
        from works.jobs.rollout.host_run import HostRun
    except ModuleNotFoundError as error:
        if error.name not in ("asyncssh", "yaml"):
            raise
        raise JobFailed("unavailable", "Rollouts need extra packages. Install them with: make extras") from None

    inventory, plan, values = await _read_plan(settings, params)
    ssh = await asyncio.to_thread(_open_ssh, settings)
    chosen, skipped = _choose(inventory, plan, params.hosts, context.only)
    values_text = "".join(f", {name}={value}" for name, value in values.items())
    await context.log(f"plan {params.plan}{values_text}: {len(chosen)} hosts")
    for name in chosen:
        await context.target(name, "not_started")
    for name in skipped:
        await context.target(name, "skipped", reason="it is not among the hosts that were asked for")

    def make_run(name: str) -> HostRun:
        return HostRun(inventory.target(name, plan, values), context, ssh, settings, dry=params.dry_run)

    hosts = [make_run(name) for name in chosen]
    execution = RolloutExecution(context, inventory, plan, hosts, make_run, settings, dry=params.dry_run)
    head = {"plan": params.plan, "dry_run": params.dry_run, "hosts": len(chosen), "skipped": len(skipped)}
    try:
        await execution.run()
    except JobFailed as error:
        raise JobFailed(error.code, error.message, {**head, **execution.result()}) from None
    return {**head, **execution.result()}


async def _read_plan(settings: RolloutSettings, params: RolloutParams) -> "tuple[Inventory, Plan, dict[str, str]]":
    """Returns the file of plans, the plan, and its parameters as text. Raises JobFailed with all errors by field."""
    from works.jobs.rollout.inventory import InventoryError, load

    if settings.plans_path is None:
        raise JobFailed("unavailable", "there are no plans; set plans to the file of plans")
    try:
        inventory = await asyncio.to_thread(load, settings.plans_path, settings)
    except InventoryError as error:
        errors = [{"field": fault.place, "line": fault.line, "message": fault.message} for fault in error.faults]
        raise JobFailed("bad_plans", str(error), {"errors": errors[:100]}) from None
    except OSError as error:
        raise JobFailed("unavailable", f"the file of plans cannot be read: {error.strerror} (plans)") from None
    plan = inventory.plans.get(params.plan)
    if plan is None:
        known = ", ".join(sorted(inventory.plans)) or "none"
        raise _bad([f"plan: there is no {params.plan!r:.60}; there are {known}"], "not_found")
    faults, values = [], {}
    try:
        values = plan.values(params.params)
    except ValueError as error:
        faults += [f"params.{line}" for line in str(error).splitlines()]
    targets = {*inventory.all_hosts(plan), *inventory.groups}
    faults += [f"hosts: the plan has no {name!r:.60}" for name in params.hosts or [] if name not in targets]
    if faults:
        raise _bad(faults, "bad_options")
    return inventory, plan, values


def _bad(faults: list[str], code: str) -> JobFailed:
    errors = [dict(zip(("field", "message"), fault.split(": ", 1), strict=True)) for fault in faults]
    return JobFailed(code, "; ".join(faults[:5])[:500], {"errors": errors[:100]})


def _open_ssh(settings: RolloutSettings) -> "Ssh":
    from works.jobs.rollout.ssh import Ssh

    if not (settings.ssh_known_hosts and settings.ssh_key):
        raise JobFailed("unavailable", "rollouts need the settings ssh_known_hosts and ssh_key; set both")
    try:
        return Ssh(Path(settings.ssh_known_hosts), Path(settings.ssh_key), settings.ssh_connect_timeout)
    except ValueError as error:
        raise JobFailed("unavailable", str(error)) from None


def _choose(
    inventory: "Inventory", plan: "Plan", requested: list[str] | None, only: frozenset[str] | None
) -> tuple[list[str], list[str]]:
    """Returns the plan's hosts to work on, and those to skip."""
    all_hosts = inventory.all_hosts(plan)
    wanted = set(inventory.members(requested)) if requested else set(all_hosts)
    chosen = [name for name in all_hosts if name in wanted and (only is None or name in only)]
    if not chosen:
        raise JobFailed("bad_options", "hosts: the plan has none of these hosts")
    return chosen, [name for name in all_hosts if name not in set(chosen)]
