"""The kinds of jobs that can be started on this server, with the schema of each and the names of plans and folders.

A parameter whose schema has ``from`` (``plans`` or ``folders``) gets the available names as its ``examples``.
"""

import asyncio
import copy
from typing import Any

from works.jobs import offered
from works.jobs.resources import JobResources

# Maximum number of names in ``examples``, and most characters of names in the description.
_MAX_NAMES, _MAX_DESCRIPTION = 200, 1000


class JobCatalog:
    def __init__(self, resources: JobResources) -> None:
        self._folders = resources.settings.folder_paths
        self._rollout = resources.rollout
        self._plans: dict[str, str] = {}
        # Modification time and size of the file of plans when it was read.
        self._stamp: tuple[int, int] | None = None
        self._reading = asyncio.Lock()

    async def kinds_for(self, scopes: frozenset[str]) -> dict[str, dict[str, Any]]:
        """Returns name -> description of every kind of job that a token with these scopes may start."""
        kinds = copy.deepcopy(offered(scopes))
        for kind in kinds.values():
            for schema in kind["params"].get("properties", {}).values():
                if source := schema.pop("from", ""):
                    self._add_choices(schema, await self._choices(source))
        return kinds

    def _add_choices(self, schema: dict[str, Any], choices: dict[str, str]) -> None:
        """``choices``: names, each with a note that is shown behind it."""
        text = ", ".join(name + note for name, note in choices.items())
        text = text if len(text) <= _MAX_DESCRIPTION else f"{text[:_MAX_DESCRIPTION]} ..."
        schema["examples"] = list(choices)[:_MAX_NAMES]
        schema["description"] = f"{schema.get('description', '')} Available: {text or 'none'}.".strip()

    async def _choices(self, source: str) -> dict[str, str]:
        if source == "folders":
            return dict.fromkeys(sorted(self._folders), "")
        async with self._reading:
            return await asyncio.to_thread(self._read_plans)

    def _read_plans(self) -> dict[str, str]:
        """Returns the plans with their parameters. Returns none when the file is invalid; a rollout reports
        its faults.
        """
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
                    self._plans = {name: _params_note(list(plan.params)) for name, plan in inventory.plans.items()}
                except InventoryError:
                    self._plans = {}
                self._stamp = stamp
        except (OSError, ModuleNotFoundError):
            return {}
        return self._plans


def _params_note(params: list[str]) -> str:
    return f" ({', '.join(params)})" if params else ""
