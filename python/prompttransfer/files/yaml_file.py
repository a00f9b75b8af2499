"""Read YAML written by people: duplicate keys are errors, errors name line and column, and `no` is a word."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from prompttransfer.files.excerpt import shown
from prompttransfer.files.texts import check_text, read_text

_MOST_VALUES = 1_000_000  # largest number of values in a file, with aliases expanded


class _Loader(yaml.SafeLoader):
    """Safe YAML with the booleans and numbers of YAML 1.2: `choices: [no, yes]` are two words, 1e-3 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.tag != "tag:yaml.org,2002:merge":
                key = self.construct_object(key_node)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {shown(key)} is given twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
            # From !!int and similar tags on the wrong values, and from dates that do not exist.
            tag = node.tag.removeprefix("tag:yaml.org,2002:")
            shown = f"{node.value[:40]!r} " if isinstance(node, yaml.ScalarNode) else ""
            raise yaml.constructor.ConstructorError(None, None, f"{shown}is no {tag}", node.start_mark) from error


_REPLACED = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF")
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    "-+.0123456789",
)


def read_yaml(path: Path) -> Any:
    """Read a YAML file; None if it is empty. Raises the errors of `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML text. Messages start with `where`.

    Raises:
        ValueError: the text is not YAML, or has a duplicate key, or aliases that are recursive or multiply; names the
            line and the column.
    """
    try:
        value = yaml.load(text, Loader=_Loader)
        _count(value, {})
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ValueError(f"{where}{place}: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{where}: not YAML: {error}") from error
    except (TypeError, LookupError, AttributeError) as error:  # from a tag on the wrong value: "!!set word"
        raise ValueError(f"{where}: not YAML that this program reads: {error}") from error
    except RecursionError:
        raise ValueError(f"{where}: the YAML is nested too deeply") from None
    return value


def _count(value: Any, known: dict[int, int]) -> int:
    """Number of values with aliases expanded. Raises ValueError for recursion and for texts that cannot be encoded.

    There is a limit, because a few lines of aliases can expand to more than fits into memory.
    """
    if isinstance(value, str):
        check_text(value, "a text")
        return 1
    if not isinstance(value, (dict, list, tuple, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = 0
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in inner)
    if not known[id(value)]:
        raise ValueError("an alias (*) refers to itself")
    if known[id(value)] > _MOST_VALUES:
        raise ValueError(f"its aliases (*) repeat more than {_MOST_VALUES:,} values")
    return known[id(value)]
