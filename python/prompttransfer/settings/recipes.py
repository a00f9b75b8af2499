"""Settings of a run in a file: a built-in recipe, by name, or your own YAML or JSON file.

A file has settings of `RunConfig` by name. It may also have these entries about them:

    about       a line or two
    base        another recipe: its settings, and what it says about them, apply unless this file overrides them
    origin      setting -> where its value is stated: paper [P], authors' code [C], derived code [D], by section
    unknown     setting -> why its value is our choice; a pattern (`*`, `bmtpt.*`) covers every setting without an
                entry of its own; the longest matching pattern applies
    departures  how a run with these settings differs from the paper, and why
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from prompttransfer.files.excerpt import MOST, shown
from prompttransfer.files.json_file import read_json
from prompttransfer.files.paths import expanded
from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.settings.base import Settings
from prompttransfer.settings.overlay import overlaid
from prompttransfer.settings.run import RunConfig, block_of

Kind = TypeVar("Kind")
FOLDER = Path(__file__).parent / "shipped"
SUFFIXES = (".yaml", ".yml", ".json")
_UNSAID = {"methods", "output"}  # the subject of a recipe, and a folder: a paper states no values for them


class About(Settings):
    """What a file says about its settings; see the module docstring."""

    about: str = ""
    base: str = ""
    origin: dict[str, str] = Field(default_factory=dict)
    unknown: dict[str, str] = Field(default_factory=dict)
    departures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """Unchecked settings from a file, and what it says about them.

    Attributes:
        name: name or path of the recipe, as requested; used in messages.
    """

    name: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    about: About = field(default_factory=About)


class SettingsError(ValueError):
    """Invalid settings. The message has a line for each, with its file, its path and the expected value."""


def recipe_names() -> list[str]:
    """Names of the built-in recipes."""
    return sorted(str(file.relative_to(FOLDER).with_suffix("").as_posix()) for file in FOLDER.rglob("*.yaml"))


def read_recipe(name: str | Path | None, _above: tuple[Path, ...] = ()) -> Recipe:
    """Read a built-in recipe by name, or a recipe file. None gives an empty recipe.

    Raises:
        FileNotFoundError: there is no such recipe (with a suggestion).
        ValueError: the file cannot be read, has a duplicate key or an entry about a setting that it does not set, or is
            its own base.
    """
    if name is None:
        return Recipe()
    text = str(name)
    shipped = recipe_names()
    path = FOLDER / f"{text}.yaml" if text in shipped else expanded(text)
    if path.suffix.lower() not in SUFFIXES:
        near = get_close_matches(text, shipped, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise FileNotFoundError(
            f"no recipe {text!r}; {hint}built-in recipes: {', '.join(shipped)}; or give a {', '.join(SUFFIXES)} file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"settings file {path} does not exist")
    if path in _above:
        raise ValueError(f"{text}: is its own base, through {', '.join(str(file) for file in _above)}")
    content = read_json(path) if path.suffix.lower() == ".json" else read_yaml(path)
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise ValueError(f"{path}: got {kind}, want settings by name, such as train_rows: 32")
    own = {str(key): value for key, value in content.items() if key not in About.model_fields}
    entries = {key: content[key] for key in About.model_fields if key in content}
    about = checked(About.model_validate, entries, text, entries)
    if not about.base:
        return Recipe(text, own, _complete(text, about, own))
    beside = path.parent / about.base
    base = read_recipe(beside if beside.is_file() else about.base, (*_above, path))
    settings = overlaid(base.settings, own)
    return Recipe(text, settings, _complete(text, _based(about, base.about, own, settings), settings))


def run_config(recipe: Recipe, given: Mapping[str, Any], *, limit: int | None = None) -> RunConfig:
    """Check the settings of a recipe, overlaid with the `given` settings.

    Args:
        limit: largest number of training, test and source rows per task, and of updates per stage.

    Raises:
        SettingsError: settings are invalid. Names the file, except for `given` settings, the path and what is expected.
        ValueError: `given` sets the same quantity in two units, such as updates and epochs.
    """
    merged = overlaid(recipe.settings, given)
    try:
        config = RunConfig(**merged)
        return config if limit is None else RunConfig(**limited(config, limit))
    except ValidationError as error:
        lines = list(explain(error, merged))
        file = f"{recipe.name}: " if recipe.name else ""
        raise SettingsError(
            "\n".join(text if path and _in(given, path) == path else f"{file}{text}" for path, text in lines)
        ) from error


def limited(config: RunConfig, most: int) -> dict[str, Any]:
    """The settings that `limit` of `run_config` reduces."""

    def cut(value: int | None) -> int:
        return most if value is None else min(value, most)

    names = ("train_rows", "test_rows", "source_rows", "max_updates")
    return config.model_dump() | {name: cut(getattr(config, name)) for name in names}


def explain(error: ValidationError, given: Mapping[str, Any] | None = None) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield (path, message) for every invalid setting. A message starts with the path and ends with the given value.

    A setting that may have one of several types has an error for each of them. They become one message if the given
    settings are known.
    """
    messages_of: dict[tuple[Any, ...], list[str]] = {}
    values: dict[tuple[Any, ...], Any] = {}
    meant: dict[tuple[Any, ...], str] = {}
    for item in error.errors():
        path = item["loc"]
        if given is not None and item["type"] != "unknown_setting":
            path = _in(given, path)
        messages_of.setdefault(path, []).append(item["msg"].removeprefix("Value error, "))
        values[path] = item["input"]
        if item["type"] == "literal_error" and isinstance(item["input"], str):
            near = get_close_matches(item["input"], _quoted(item["msg"]), n=1)
            meant[path] = f"; did you mean {near[0]!r}?" if near else ""
    blocks = {path[:size] for path in messages_of for size in range(len(path))}
    # A block is invalid only because of a part of it.
    refused = {path: messages for path, messages in messages_of.items() if path not in blocks}
    for path, messages in islice(refused.items(), MOST):
        value = values[path]
        got = "" if not path or isinstance(value, dict) else f", got {shown(value)}"
        name = f"{'.'.join(map(str, path))}: " if path else ""
        yield path, f"{name}{'; or: '.join(dict.fromkeys(messages))}{got}{meant.get(path, '')}"
    if len(refused) > MOST:
        yield (), f"and {len(refused) - MOST} more values are invalid"


def checked(
    validate: Callable[[Any], Kind], content: Any, what: Path | str, given: Mapping[str, Any] | None = None
) -> Kind:
    """Validate the content of a file, with `model_validate` of its class or `validate_python` of a TypeAdapter.

    Args:
        given: of `explain`.

    Raises:
        ValueError: the content is invalid. The message has a line for each error, starting with `what`.
    """
    try:
        return validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(f"{what}: {text}" for _, text in explain(error, given))) from error


def _quoted(message: str) -> list[str]:
    """The values in a message such as: Input should be 'auto', 'float32' or 'bfloat16'."""
    return re.findall(r"'([^']*)'", message)


def setting_paths(settings: Mapping[str, Any], inside: str = "") -> Iterator[str]:
    """Dotted paths of all single values of nested settings, such as train_rows and mpt.rank."""
    for name, value in settings.items():
        path = f"{inside}{name}"
        if isinstance(value, dict) and block_of(RunConfig, path):
            yield from setting_paths(value, f"{path}.")
        else:
            yield path


def _based(own: About, base: About, given: dict[str, Any], settings: dict[str, Any]) -> About:
    """Combine what a file says about its settings with what its base says about the others."""
    left = set(setting_paths(settings)) - set(setting_paths(given)) - own.origin.keys() - own.unknown.keys()

    def kept(texts: dict[str, str]) -> dict[str, str]:
        return {path: text for path, text in texts.items() if path in left}

    return About(
        about=own.about or base.about,
        base=own.base,
        origin=kept(base.origin) | own.origin,
        unknown=kept(base.unknown) | own.unknown,
        departures=(*base.departures, *own.departures),
    )


def _complete(name: str, about: About, settings: dict[str, Any]) -> About:
    """Expand patterns to one entry per setting that they cover."""
    paths = list(setting_paths(settings))
    patterns = sorted((key for key in about.unknown if "*" in key), key=len, reverse=True)
    named = {path: text for path, text in about.unknown.items() if path not in patterns}
    for key, path in (*(("origin", path) for path in about.origin), *(("unknown", path) for path in named)):
        if path not in paths:
            raise ValueError(f"{name}: {key}.{path}: the file does not set {path!r}")
    for path in paths:
        fitting = next((pattern for pattern in patterns if fnmatchcase(path, pattern)), None)
        if fitting and path not in about.origin and path not in _UNSAID:
            named.setdefault(path, about.unknown[fitting])
    return about.model_copy(update={"unknown": named})


def _in(given: Mapping[str, Any], loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """The part of an error's location that is a path into the given settings, without the tags of unions."""
    value: Any = given
    for depth, part in enumerate(loc):
        inside = (isinstance(value, dict) and part in value) or (
            isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)
        )
        if not inside:
            return loc[:depth]
        value = value[part]
    return loc
