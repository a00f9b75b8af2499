"""Targets: YAML, settings of a run, descriptions of tasks."""

from __future__ import annotations

import math
from typing import Any

import yaml

from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.settings.recipes import Recipe, read_recipe, run_config
from prompttransfer.tasks.description import read_description
from tools.fuzz.target import Finding, Folder, Target, refuses

_YAML_WORDS = [
    b"&a ", b"*a", b"<<: ", b"!!", b"!!int ", b"!!float ", b"!!timestamp ", b"!!binary ", b"!!bool ", b"!!set ",
    b"!!omap ", b"!!python/name:os.system ", b"!!null ", b"? ", b": ", b"- ", b"|\n", b">-\n", b"[", b"]", b"{", b"}",
    b"'", b'"', b"\\u", b"\\ud800", b"\\x00", b"0b_", b"0x", b"1e3", b".inf", b".nan", b"2020-13-45", b"190:20:30",
    b"---\n", b"...\n", b"%YAML 1.2\n", b"\xef\xbb\xbf", b"\x00", b"\xff", b"~", b"null", b"\n  ", b"#",
]  # fmt: skip
_YAML_SEEDS = [
    b"",
    b"a: 1\nb: [x, 2.5, no, true, null]\nc: {d: e}\n",
    b"- &a {x: 1}\n- <<: *a\n  y: 'two'\n",
    b"text: |\n  two\n  lines\nmore: >-\n  one\n  line\n",
    b'? [a, b]\n: "\\u00e9\\n"\n',
    b"day: 2020-01-31\ntime: 2020-01-31T10:00:00Z\nn: 0x1F\nm: 1_000\n",
    b"!!set {a, b}\n",
    b"x: !!binary aGVsbG8=\n",
]


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _plain(value: Any) -> bool:
    """Whether a value is JSON data with string keys, which can be written back unchanged."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_plain, value))
    return value is None or isinstance(value, str | bool | int | float)


def check_yaml(data: bytes) -> bool:
    with Folder() as folder:
        path = folder / "a.yaml"
        path.write_bytes(data)
        values: list[Any] = []
        if refuses(lambda: values.append(read_yaml(path)), path.name):
            return False
        (value,) = values
        if _plain(value) and len(data) < 512:
            path.write_text(yaml.safe_dump(value, default_style='"', sort_keys=False), encoding="utf-8")
            if not _same(read_yaml(path), value):
                raise Finding(f"read {value!r}, and after writing it {read_yaml(path)!r}")
        return True


_RECIPE_SEEDS = [
    b"\x00sources: [amazon]\ntargets: [sst2]\nmethods: [PT, MPT]\nseeds: [1, 2]\n",
    b"\x00train_rows: all\ntarget_epochs: {0: 20, 101: 5}\nmpt: {rank: 2, source_updates: 3}\n",
    b"\x00about: x\norigin: {train_rows: paper}\ntrain_rows: 3\nper_task: {'s*': {batch_size: 2}}\n",
    b'\x01{"model": "demo", "learning_rate": 1e-3, "bmtpt": {"particles": 4}, "output": "x"}',
    b'\x01{"dtvg": {"variant": "code"}, "unknown": {"seeds": "ours"}, "seeds": [1]}',
]
_SETTING_WORDS = [
    b"sources", b"targets", b"methods", b"seeds", b"train_rows", b"target_epochs", b"per_task", b"mpt", b"bmtpt",
    b"dtvg", b"spot", b"attempt", b"variant", b"ablation", b"output", b"cache", b"about", b"origin", b"unknown",
    b"departures", b"init_text", b"warmup", b"1e999", b"NaN", b"Infinity", b"9" * 30, b"9" * 5000, b'"\\ud800"',
    b"[" * 40, b'{"a":' * 20, b"null", b"true", b"-1", b"PT", b"DTVG", b"paper",
]  # fmt: skip


def check_recipe(data: bytes) -> bool:
    with Folder() as folder:
        path = folder / ("a.json" if data[:1] == b"\x01" else "a.yaml")
        path.write_bytes(data[1:])
        recipes: list[Recipe] = []
        if refuses(lambda: recipes.append(read_recipe(path)), path.name):
            return False
        configs: list[Any] = []
        if refuses(lambda: configs.append(run_config(recipes[0], {})), path.name):
            return False
        (config,) = configs
        text = config.model_dump_json()  # as written to a run folder
        if type(config).model_validate_json(text) != config:
            raise Finding(f"settings change when they are written and read: {text}")
        return True


_DESCRIPTION_SEEDS = [
    b"train: a.csv\nlabel: y\nchoices: {0: bad, 1: good}\nfields: {text: review}\n",
    b"train: [a.csv]\ntest: a*\ntemplate: '{q} {a}:'\nanswer: z\nmetric: f1\n",
    b"name: x\ntrain: a.csv\nchoices: [no, yes]\nmax_words: 3\nrows: {train: 5}\nencoding: latin-1\nquotes: false\n",
]
_DESCRIPTION_WORDS = [
    b"name", b"train", b"test", b"validation", b"template", b"fields", b"label", b"answer", b"choices", b"metric",
    b"more_metrics", b"max_length", b"bad_rows", b"encoding", b"quotes", b"streaming", b"rows", b"seed", b"a.csv",
    b"**", b"[!", b"../", b"~", b"~nobody/", b"\\0", b"{text!r}", b"{0}", b"{a.b}", b"{a[0]}", b"{{", b"utf-16",
    b"rot13", b"idna", b"undefined", b"hex", b"unicode_escape", *_YAML_WORDS,
]  # fmt: skip


def check_description(data: bytes) -> bool:
    with Folder() as folder:
        path = folder / "d.yaml"
        path.write_bytes(data)
        (folder / "a.csv").write_text("text,label\nx,0\n", encoding="utf-8")
        descriptions: list[Any] = []
        if refuses(lambda: descriptions.append(read_description(path)), path.name):
            return False
        (described,) = descriptions
        if not all(file.exists() for split in ("train", "validation", "test") for file in getattr(described, split)):
            raise Finding("accepted, but it names a file that does not exist")
        described.model_dump_json()
        return True


def targets() -> dict[str, Target]:
    return {
        "yaml": Target(check_yaml, _YAML_SEEDS, _YAML_WORDS),
        "recipe": Target(check_recipe, _RECIPE_SEEDS, [*_SETTING_WORDS, *_YAML_WORDS], 8192),
        "description": Target(check_description, _DESCRIPTION_SEEDS, _DESCRIPTION_WORDS),
    }
