"""Shell completion: names that are known without loading anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.model_names import hub_models
from prompttransfer.settings.base import Settings
from prompttransfer.settings.reading import Reading
from prompttransfer.settings.recipes import recipe_names
from prompttransfer.settings.run import RunConfig, block_of

# Importing the methods and tasks takes seconds, so their names are copied here. A test compares them.
_METHODS = "PT Multi-PT SPoT TPV ATTEMPT MPT MPT-group BMTPT DTVG CrossPT DePT PANDA"
_TASKS = """
    amazon tweets movies r8 r52-other nyt sst2 subjectivity mrpc rte cb boolq glue/mnli glue/qqp glue/qnli
    glue/sst2 glue/stsb glue/mrpc glue/rte glue/cola superglue/multirc superglue/boolq superglue/wic
    superglue/wsc superglue/cb superglue/record mrqa/squad mrqa/nq mrqa/hotpotqa mrqa/searchqa mrqa/newsqa
    others/winogrande others/yelp others/scitail others/paws nlg/e2e nlg/webnlg nlg/commongen extra/agnews
    extra/commonsenseqa extra/openbookqa extra/arc extra/anli
"""
METHOD_NAMES, TASK_NAMES = tuple(_METHODS.split()), tuple(_TASKS.split())
# Settings that can be options: those of a run, and those for reading tables.
FIELDS = {**RunConfig.model_fields, **Reading.model_fields}


def names_of(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Completion of a name, or of the last name in a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        named = before.split(",")
        fitting = (name for name in names() if name.startswith(last) and name not in named)
        return [f"{before}{comma}{name}" for name in fitting]

    return complete


def setting(name: str) -> Callable[[str], list[str]] | None:
    """Completion of a setting by its values; None to leave it to the setting's type."""
    named = {"sources": task_name, "targets": task_name, "methods": method_name, "model": model}
    return named.get(name) or (names_of(lambda: values(name)) if values(name) else None)


def values(name: str) -> list[str]:
    """The values of a setting that has only a few."""
    return list(METHOD_NAMES) if name == "methods" else _values(FIELDS[name].annotation)


def assignment(incomplete: str) -> list[str]:
    """Completion of NAME=VALUE: names of all settings, then the values of a setting that has only a few."""
    import prompttransfer.methods  # noqa: F401  they have settings too

    name, equals, begun = incomplete.partition("=")
    kinds = dict(_settings())
    if not equals:
        return [f"{path}=" for path in kinds if path.startswith(name)]
    return [f"{name}={value}" for value in _values(kinds.get(name)) if value.startswith(begun)]


def _settings(kind: type[Settings] = RunConfig, inside: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and type of every single setting."""
    for name, field in kind.model_fields.items():
        block = block_of(kind, name)
        if block:
            yield from _settings(block, f"{inside}{name}.")
        else:
            yield f"{inside}{name}", field.annotation


def _values(annotation: Any) -> list[str]:
    """Strings in a Literal, also inside a union."""
    parts = get_args(annotation)
    return [value for part in parts for value in ([part] if isinstance(part, str) else _values(part))]


asset_names = names_of(lambda: ASSETS)
method_name = names_of(lambda: METHOD_NAMES)
model = names_of(lambda: ("demo", *hub_models()))
recipe = names_of(recipe_names)
task_name = names_of(lambda: TASK_NAMES)
