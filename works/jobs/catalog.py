"""What may be started on this server, as a form needs it: the schemas, with the plans and folders that there are.

A parameter whose schema has ``from`` (``plans`` or ``folders``) is given as its ``examples`` what may be said there.
"""

import asyncio
import copy
from typing import Any

from works.jobs import offered
from works.jobs.resources import JobResources

# Names that a form is given, and characters of them in the words beside its field.
_MOST, _LONGEST = 200, 1000


class JobCatalog:
    def __init__(self, resources: JobResources) -> None:
        self._folders = resources.settings.folder_paths
        self._rollout = resources.rollout
        self._plans: dict[str, str] = {}
        # Of the file of plans as it was when it was read: when it was written, and how long it is.
        self._stamp: tuple[int, int] | None = None
        self._reading = asyncio.Lock()

    async def of(self, scopes: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Name -> description of every kind of job that a token with these scopes may start."""
        kinds = copy.deepcopy(offered(scopes))
        for kind in kinds.values():
            for schema in kind["params"].get("properties", {}).values():
                if source := schema.pop("from", ""):
                    self._fill(schema, await self._there(source))
        return kinds

    def _fill(self, schema: dict[str, Any], there: dict[str, str]) -> None:
        """``there``: names, and what is said of each."""
        words = ", ".join(name + said for name, said in there.items())
        words = words if len(words) <= _LONGEST else f"{words[:_LONGEST]} ..."
        schema["examples"] = list(there)[:_MOST]
        schema["description"] = f"{schema.get('description', '')}: {words or 'there are none'}"

    async def _there(self, source: str) -> dict[str, str]:
        if source == "folders":
            return dict.fromkeys(sorted(self._folders), "")
        async with self._reading:
            return await asyncio.to_thread(self._read_plans)

    def _read_plans(self) -> dict[str, str]:
        """Each with its parameters; none of a file that cannot be used, which a rollout tells all about."""
        path = self._rollout.plans_path
        if path is None:
            return {}
        try:
            from works.jobs.rollout.inventory import InventoryError, load

            stat = path.stat()
            stamp = stat.st_mtime_ns, stat.st_size
            if stamp != self._stamp:
                try:
                    inventory = load(path, self._rollout)
                    self._plans = {name: _with(list(plan.params)) for name, plan in inventory.plans.items()}
                except InventoryError:
                    self._plans = {}
                self._stamp = stamp
        except (OSError, ModuleNotFoundError):
            return {}
        return self._plans


def _with(params: list[str]) -> str:
    return f" ({', '.join(params)})" if params else ""
