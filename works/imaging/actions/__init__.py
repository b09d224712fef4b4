"""The registry of actions. An action changes a picture after it was decoded and resized.

An action is a function with the decorator ``@action`` in a file of this folder. It takes an Image and returns an Image
or Findings, without side effects. Its name is the name on the wire. Its docstring is the help text. Its keyword-only
parameters are the options: their annotations give the type, the range and the description of each.
"""

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError, create_model

from works.errors import WorkError
from works.imaging.pixels import Image
from works.validation import StrictModel, describe_faults


@dataclass(frozen=True, slots=True)
class Findings:
    """A picture and the objects that an action found on it.

    Each item has ``box`` (x, y, width and height in pixels of ``image``) and further members that the action defines.
    """

    image: Image
    name: str
    items: list[dict[str, Any]]


Function = Callable[..., Image | Findings]
F = TypeVar("F", bound=Function)


@dataclass(frozen=True, slots=True)
class Action:
    name: str
    function: Function
    options: type[StrictModel]
    help: str
    gives_data: bool
    missing: str = ""
    """Name of a package that must be installed before this action can be used, or an empty string."""

    schema: dict[str, Any] = field(init=False, compare=False)
    """Option name -> its JSON Schema. Created once, because it takes 2 ms for all actions."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", self.options.model_json_schema().get("properties", {}))

    def describe(self) -> dict[str, Any]:
        """Returns the help text and the JSON Schema of the options, as in the message ``hello``."""
        return {"help": self.help, "gives_data": self.gives_data, "options": self.schema}


@dataclass(slots=True)
class _Registry:
    actions: dict[str, Action] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)


_registry = _Registry()


def action(*, alias: str = "", needs: str = "") -> Callable[[F], F]:
    """Registers a function as an action. ``needs``: a package of the extras without which the action is not offered."""

    def register(function: F) -> F:
        signature = inspect.signature(function, eval_str=True)
        name = function.__name__
        fields: dict[str, Any] = {
            option.name: (option.annotation, option.default)
            for option in signature.parameters.values()
            if option.kind is option.KEYWORD_ONLY
        }
        options = create_model(name, __base__=StrictModel, **fields)
        if name in _registry.actions:
            raise ValueError(f"two actions have the name {name!r}")
        _registry.actions[name] = Action(
            name=name,
            function=function,
            options=options,
            help=inspect.cleandoc(function.__doc__ or "").replace("\n", " "),
            gives_data=signature.return_annotation is Findings,
            missing=needs if needs and importlib.util.find_spec(needs) is None else "",
        )
        if alias:
            _registry.aliases[alias] = name
        return function

    return register


def offered() -> dict[str, dict[str, Any]]:
    """Returns name -> description of every action that can be used on this server."""
    return {name: known.describe() for name, known in sorted(_registry.actions.items()) if not known.missing}


def find(name: str) -> Action:
    """Returns the action with this name on the wire or alias. Raises WorkError unknown_action."""
    known = _registry.actions.get(_registry.aliases.get(name, name))
    if known is None:
        raise WorkError("unknown_action", f"action {name[:40]!r} is unknown; use {', '.join(offered())}")
    if known.missing:
        raise WorkError(
            "unknown_action",
            f"action {name!r} needs the package {known.missing}, which is not installed on this server",
        )
    return known


def check(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Returns all options, with defaults and with the declared types.

    Raises WorkError unknown_action, or bad_options with a message that names each wrong option.
    """
    known = find(name)
    try:
        return known.options.model_validate(options).model_dump()
    except ValidationError as error:
        raise WorkError("bad_options", f"{known.name}: {describe_faults(error, 'options')}") from None


def apply(name: str, image: Image, options: dict[str, Any]) -> Image | Findings:
    """Runs the action on ``image``. ``options`` must come from ``check``."""
    return find(name).function(image, **options)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
