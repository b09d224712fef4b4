"""The file of plans: hosts, groups and plans in YAML. All its faults are reported together, each with its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from works.jobs.rollout.plan import RESERVED, Name, Part, Plan, Value, Variable, as_text
from works.jobs.rollout.settings import RolloutSettings

# Maximum number of bytes of the file. A thousand hosts take some 80 KiB.
_MOST_BYTES = 4 << 20
# Maximum number of values in the file, aliases included. Nine lines with aliases of aliases can stand for a thousand
# million values.
_MOST_VALUES = 500_000
# Maximum number of faults in one message.
_MAX_FAULTS = 20

Port = Annotated[int, Field(ge=1, le=65535)]
User = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,99}$")]
Place = tuple[str | int, ...]


class Host(Part):
    address: str | None = Field(None, pattern=r"^[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,252}$")
    """Address of the host, by default its name. The host's key is looked up by it."""
    port: Port | None = None
    user: User | None = None
    vars: dict[Variable, Value] = Field({})


class Group(Part):
    hosts: list[Name]
    vars: dict[Variable, Value] = Field({})


class Defaults(Part):
    port: Port = 22
    user: User | None = None
    vars: dict[Variable, Value] = Field({})


@dataclass(frozen=True, slots=True)
class Target:
    """A host as a rollout connects to it. ``values`` are the variables of its commands."""

    name: str
    address: str
    port: int
    user: str
    values: dict[str, str]


class Inventory(Part):
    defaults: Defaults = Defaults()
    hosts: dict[Name, Host] = Field({})
    groups: dict[Name, Group] = Field({})
    plans: dict[Name, Plan] = Field({})

    def members(self, names: list[str]) -> list[str]:
        """Returns the hosts of these hosts and groups, each once, in the order in which they are named."""
        found = (self.groups[name].hosts if name in self.groups else [name] for name in names)
        return list(dict.fromkeys(host for hosts in found for host in hosts))

    def all_hosts(self, plan: Plan) -> list[str]:
        """Returns every host of the plan's stages."""
        return self.members([name for stage in plan.stages for name in stage.hosts or plan.hosts])

    def target(self, name: str, plan: Plan, values: dict[str, str]) -> Target:
        """Returns the host with its values: its own, else those of its groups, of the plan, or the defaults.

        ``values`` of the request override all of them.
        """
        host = self.hosts[name]
        groups = [group.vars for group in self.groups.values() if name in group.hosts]
        known = {
            key: as_text(value)
            for kept in (self.defaults.vars, plan.vars, *groups, host.vars)
            for key, value in kept.items()
        }
        address = host.address or name
        known |= values | {"host": name, "address": address}
        return Target(name, address, host.port or self.defaults.port, host.user or self.defaults.user or "", known)


@dataclass(frozen=True, slots=True)
class Fault:
    place: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.place + ': ' if self.place else ''}{self.message}"


class InventoryError(Exception):
    """The file of plans cannot be used. ``faults`` are all of its faults, sorted by line."""

    def __init__(self, path: Path, faults: list[Fault]) -> None:
        self.faults = sorted(set(faults), key=lambda fault: (fault.line, fault.place))
        lines = [str(fault) for fault in self.faults[:_MAX_FAULTS]]
        if len(self.faults) > _MAX_FAULTS:
            lines.append(f"and {len(self.faults) - _MAX_FAULTS} more")
        super().__init__("\n".join([f"{path.name} cannot be used:", *lines]))


def load(path: Path, settings: RolloutSettings) -> Inventory:
    """Reads the file of plans. To be called in a thread, because a line takes some 0.1 ms.

    Raises:
        InventoryError: the file is invalid.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InventoryError(path, [Fault("", 1, f"it has more than {_MOST_BYTES:,} bytes")])
    reading = _Reading()
    content = reading.read(data)
    if not isinstance(content, dict):
        raise InventoryError(path, reading.faults or [Fault("", 1, "it must have hosts, groups and plans")])
    faults = reading.faults + [reading.fault(place, message) for place, message in _unknown_names(content)]
    try:
        inventory = Inventory.model_validate(content)
    except ValidationError as error:
        raise InventoryError(path, faults + list(_merged(reading, error))) from None
    if not faults:
        faults = [reading.fault(place, message) for place, message in _over_limits(inventory, settings)]
    if faults:
        raise InventoryError(path, faults)
    return inventory


class _Reading:
    """Converts YAML to plain values, with the line of each place. A repeated key is a fault."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self._lines: dict[Place, int] = {(): 1}

    def fault(self, place: Place, message: str) -> Fault:
        while place not in self._lines:
            place = place[:-1]
        return Fault(".".join(map(str, place)), self._lines[place], message)

    def read(self, data: bytes) -> Any:
        try:
            loader = yaml.SafeLoader(data)
            root = loader.get_single_node()
            return {} if root is None else self._value(loader, root, ())
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.faults.append(Fault("", mark.line + 1 if mark else 1, f"{error.problem or error.context}"))
        except (yaml.YAMLError, ValueError) as error:
            self.faults.append(Fault("", 1, f"this is no YAML: {str(error).splitlines()[0]}"))
        except RecursionError:
            self.faults.append(Fault("", 1, "it is nested too deep, or a part is within itself"))
        return None

    def _value(self, loader: yaml.SafeLoader, node: yaml.Node, place: Place) -> Any:
        if len(self._lines) > _MOST_VALUES:
            raise ValueError(f"it has more than {_MOST_VALUES:,} values")
        self._lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(loader, node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(loader, part, (*place, index)) for index, part in enumerate(node.value)]
        return loader.construct_object(node)

    def _mapping(self, loader: yaml.SafeLoader, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                self.faults.append(Fault(".".join(map(str, place)), key.start_mark.line + 1, f"{key.value} twice"))
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = loader.construct_object(key)
            if not isinstance(name, str):
                line = key.start_mark.line + 1
                self.faults.append(Fault(".".join(map(str, place)), line, f"{key.value!s:.40} is no name; quote it"))
                continue
            self._lines[(*place, name)] = key.start_mark.line + 1
            found[name] = self._value(loader, value, (*place, name))
        return found


def _merged(reading: _Reading, error: ValidationError) -> Iterator[Fault]:
    """Merges the faults of one place, for example of a value that fits none of several types."""
    found: dict[tuple[str, int], list[str]] = {}
    for detail in error.errors(include_url=False, include_input=False, include_context=False):
        place = tuple(detail["loc"])
        # In YAML the values no, 1.10 and 12:30 do not mean what they look like.
        text = "must be text; put it in quotes" if detail["type"] == "string_type" else detail["msg"]
        fault = reading.fault(place, text.removeprefix("Value error, "))
        name = str(place[-1]) if detail["type"] in ("missing", "extra_forbidden") else ""
        message = f"{name}: {fault.message}" if name and not fault.place.endswith(name) else fault.message
        found.setdefault((fault.place, fault.line), []).append(message)
    for (field_place, line), messages in found.items():
        yield Fault(field_place, line, "; or: ".join(dict.fromkeys(messages)))


def _unknown_names(content: Any, place: Place = (), known: frozenset[str] | None = None) -> Iterator[tuple[Place, str]]:
    """Yields faults for unknown hosts and groups in any list of hosts."""
    if not isinstance(content, dict | list):
        return
    if known is None:
        parts = content if isinstance(content, dict) else {}
        hosts, groups = (frozenset(map(str, parts.get(name) or ())) for name in ("hosts", "groups"))
        yield from ((("groups", name), "a host has this name too") for name in hosts & groups)
        yield from _unknown_names(parts.get("groups"), ("groups",), hosts)
        yield from _unknown_names(parts.get("plans"), ("plans",), hosts | groups)
        return
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        here = (*place, key)
        if key == "hosts" and isinstance(value, list):
            names = [(index, name) for index, name in enumerate(value) if isinstance(name, str)]
            yield from (((*here, index), f"there is no {name!r:.60}") for index, name in names if name not in known)
        else:
            yield from _unknown_names(value, here, known)


def _over_limits(inventory: Inventory, settings: RolloutSettings) -> Iterator[tuple[Place, str]]:
    """Yields faults beyond the schema: no user, names that are used twice, values above a limit of the settings."""
    for name, host in inventory.hosts.items():
        if not (host.user or inventory.defaults.user):
            yield ("hosts", name), "say its user, here or in defaults"
    for name, plan in inventory.plans.items():
        place: Place = ("plans", name)
        for taken in sorted((RESERVED | set(plan.vars)) & set(plan.params)):
            yield (*place, "params", taken), "the name is taken"
        if plan.deadline > settings.rollout_deadline:
            yield (*place, "deadline"), f"at most {settings.rollout_deadline:g} seconds (rollout_deadline)"
        if (count := len(inventory.all_hosts(plan))) > settings.rollout_hosts:
            yield place, f"{count} hosts; at most {settings.rollout_hosts} (rollout_hosts)"
        for index, stage in enumerate(plan.stages):
            if stage.forks > settings.rollout_forks:
                yield (*place, "stages", index, "forks"), f"at most {settings.rollout_forks} (rollout_forks)"
