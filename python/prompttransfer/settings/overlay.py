"""Overlay settings on other settings, such as options on a recipe.

An overlaid setting also overrides related settings below it: `target_updates` overrides `target_epochs`, a `variant`
overrides the settings that it stands for, and a budget of the run overrides that of a method's block or of a task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prompttransfer.settings.base import Presets, Settings
from prompttransfer.settings.overrides import MethodSettings, TaskSettings
from prompttransfer.settings.run import RunConfig, block_of

# Groups of settings for the same quantity in different units. At most one of each may be set.
_UNITS = (
    frozenset({"target_updates", "target_epochs"}),
    frozenset({"source_updates", "source_epochs"}),
    frozenset({"own_updates", "own_epochs", "own_fraction"}),
    frozenset({"warmup", "warmup_updates"}),
)
# Settings of the run that a method's block may override.
_FOR_ALL_BLOCKS = {"variant", "source_updates", "source_epochs"}
_EXCEPTIONS: dict[str, type[Settings]] = {"per_task": TaskSettings, "per_method": MethodSettings}


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay the settings `above` on `below`, both nested as in a recipe.

    Raises:
        ValueError: `above` sets the same quantity in two units.
    """
    _check_units(above)
    return merged(_rest(below, above, RunConfig), above)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two nested settings, name by name; `above` wins."""
    shared = [name for name in above if isinstance(below.get(name), Mapping) and isinstance(above[name], Mapping)]
    both = {name: merged(below[name], above[name]) for name in shared}
    return {**below, **above, **both}


def nested(path: str, value: Any) -> dict[str, Any]:
    """Nest a dotted path: "mpt.rank" and 2 become {"mpt": {"rank": 2}}."""
    for name in reversed(path.split(".")):
        value = {name: value}
    settings: dict[str, Any] = value
    return settings


def _rest(below: Mapping[str, Any], above: Mapping[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """The part of `below` that `above` does not override."""
    gone = _overruled(below, above, kind)
    rest = {name: value for name, value in below.items() if name not in gone}
    for name, value in rest.items():
        own, block, exception = above.get(name), block_of(kind, name), _EXCEPTIONS.get(name)
        if not isinstance(value, dict):
            continue
        if block:
            rest[name] = _rest(value, _known(above, block, _FOR_ALL_BLOCKS) | _dict(own), block)
        elif kind is RunConfig and exception:
            rest[name] = {
                key: _rest(inner, _known(above, exception) | _dict(_dict(own).get(key)), exception)
                if isinstance(inner, dict)
                else inner
                for key, inner in value.items()
            }
    return rest


def _overruled(below: Mapping[str, Any], above: Mapping[str, Any], kind: type[Settings]) -> set[str]:
    """Names in `below` that `above` overrides."""
    names = {name for name in above if not block_of(kind, name) and name not in _EXCEPTIONS}
    names = names.union(*(units for units in _UNITS if units & above.keys()))
    if kind is RunConfig and "variant" in above:
        names.add("transfer_from")  # a variant changes its default
    if "own_fraction" in above:
        names.add("own_batch_size")  # belongs to own updates or epochs, which are overridden
    if issubclass(kind, Presets):
        for preset, table in (("variant", kind.variants), ("ablation", kind.ablations)):
            if preset in above:
                names.update(table.get(str(above[preset]), ()), table.get(str(below.get(preset)), ()))
    return names


def _check_units(above: Mapping[str, Any], inside: str = "") -> None:
    for units in _UNITS:
        if len(both := [name for name in above if name in units]) > 1:
            raise ValueError(f"{' and '.join(inside + name for name in both)}: got both, want one of them")
    for name, value in above.items():
        if isinstance(value, dict):
            _check_units(value, f"{inside}{name}.")


def _known(settings: Mapping[str, Any], kind: type[Settings], names: set[str] | None = None) -> dict[str, Any]:
    """The settings that `kind` has as well; only those in `names`, if given."""
    return {
        name: value
        for name, value in settings.items()
        if name in kind.model_fields and (names is None or name in names)
    }


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
