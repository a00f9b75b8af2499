"""Settings over a recipe: they win, also over related settings with other names."""

from __future__ import annotations

from typing import Any

import pytest

from prompttransfer import RunConfig
from prompttransfer.cli.setting_options import collect_settings
from prompttransfer.settings.overlay import merged, nested, overlaid
from prompttransfer.settings.recipes import Recipe, SettingsError, run_config

# (recipe, given, the setting it is about, as a path in RunConfig, its value by the rules of docs/recipes.md)
WINS: list[tuple[dict[str, Any], dict[str, Any], str, Any]] = [
    ({"mpt": {"rank": 2, "hidden": "all"}}, {"mpt": {"rank": 3}}, "mpt.rank", 3),
    ({"mpt": {"rank": 2, "hidden": "all"}}, {"mpt": {"rank": 3}}, "mpt.hidden", "all"),
    ({"target_epochs": 3}, {"target_updates": 9}, "target_epochs", None),
    ({"target_epochs": {0: 20, 10_001: 10}}, {"target_epochs": {0: 5}}, "target_epochs", {0: 5}),
    ({"warmup_updates": 50}, {"warmup": 0.2}, "warmup_updates", None),
    ({"mpt": {"source_epochs": 5}}, {"source_updates": 9}, "mpt.source_epochs", None),
    ({"mpt": {"source_epochs": 5}}, {"mpt": {"source_updates": 9}}, "mpt.source_epochs", None),
    ({"bmtpt": {"source_updates": 5}}, {"mpt": {"source_updates": 9}}, "bmtpt.source_updates", 5),
    ({"dtvg": {"own_updates": 50}}, {"dtvg": {"own_fraction": 0.25}}, "dtvg.own_updates", None),
    (
        {"dtvg": {"own_updates": 50, "own_batch_size": 4}},
        {"dtvg": {"own_fraction": 0.25}},
        "dtvg.own_batch_size",
        None,
    ),
    # An ablation stands for settings that a recipe may also set itself, and so does a variant of one or all methods.
    ({"mpt": {"distillation": 0.5}}, {"mpt": {"ablation": "no-distillation"}}, "mpt.distillation", 0.0),
    ({"mpt": {"distillation": 0.5}}, {"mpt": {"ablation": "no-hidden"}}, "mpt.distillation", 0.5),
    (
        {"mpt": {"ablation": "no-sampling", "sampling": "rows"}},
        {"mpt": {"ablation": "none"}},
        "mpt.sampling",
        "stochastic",
    ),
    ({"dtvg": {"variant": "code", "rule": "nearest"}}, {"dtvg": {"variant": "paper"}}, "dtvg.rule", "best-prefix"),
    ({"dtvg": {"variant": "code"}}, {"variant": "paper"}, "dtvg.rule", "best-prefix"),
    ({"mpt": {"average": "fit"}}, {"variant": "code"}, "mpt.average", "means"),
    ({"variant": "code"}, {"mpt": {"variant": "paper"}}, "mpt.factor_start", "ones"),
    ({"mpt": {"rank": 2}}, {"variant": "code"}, "mpt.rank", 2),
    ({"target_learning_rate": 0.1}, {"target_learning_rate": None}, "target_learning_rate", None),
]


@pytest.mark.parametrize(("recipe", "above", "path", "expected"), WINS)
def test_what_is_given_wins(recipe: dict[str, Any], above: dict[str, Any], path: str, expected: Any) -> None:
    before = repr(recipe)
    of_all = {} if "variant" in {**recipe, **above} else {"transfer_from": "all"}
    value: Any = run_config(Recipe(settings=recipe | of_all), above)
    for name in path.split("."):
        value = getattr(value, name)
    assert value == expected and repr(recipe) == before


def test_over_a_run_whose_file_names_every_setting() -> None:
    """config.json of a run has all defaults. They do not override a variant of all methods given above it."""
    whole = RunConfig().model_dump(mode="json")
    assert run_config(Recipe(settings=whole), {}) == RunConfig()
    assert run_config(Recipe(settings=whole), {"variant": "code"}) == RunConfig(variant="code")
    assert run_config(Recipe(settings=whole), {"variant": "code"}).transfer_from == "all"
    above = {"transfer_from": "all", "dtvg": {"variant": "paper"}, "mpt": {"ablation": "neither"}}
    assert run_config(Recipe(settings=whole), above) == RunConfig(**above)


def test_exceptions_of_tasks_and_methods() -> None:
    recipe = Recipe(settings={"per_task": {"sst2": {"target_updates": 5, "batch_size": 2}, "nyt": {"batch_size": 3}}})
    config = run_config(recipe, {"per_task": {"sst2": {"target_epochs": 2}}})
    assert config.for_task("sst2").target_epochs == 2 and config.for_task("sst2").batch_size == 2
    assert config.for_task("nyt").batch_size == 3
    assert run_config(recipe, {"batch_size": 7}).for_task("nyt").batch_size == 7
    assert run_config(recipe, {"warmup": 0.5}).for_task("nyt").batch_size == 3


@pytest.mark.parametrize(
    ("above", "message"),
    [
        ({"target_updates": 3, "target_epochs": 2}, "target_updates and target_epochs: got both"),
        ({"dtvg": {"own_fraction": 0.5, "own_epochs": 2}}, "dtvg.own_fraction and dtvg.own_epochs: got both"),
    ],
)
def test_one_thing_in_two_units_is_refused(above: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlaid({}, above)


def test_nested_settings() -> None:
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}} and nested("a", [2]) == {"a": [2]}
    below = {"a": {"b": 1, "c": 2}, "d": 3}
    assert merged(below, {"a": {"b": 4}, "d": {"e": 5}}) == {"a": {"b": 4, "c": 2}, "d": {"e": 5}}
    assert below == {"a": {"b": 1, "c": 2}, "d": 3}


def test_options_and_assignments_in_one() -> None:
    options = {"seeds": (1, 2), "train_rows": None}
    assigned = ["mpt.rank=2", "mpt.ablation = no-hidden", "warmup=1e-2", "target_epochs={0: 20, 10001: 10}"]
    assert collect_settings(options, [*assigned, "target_learning_rate=null", "init_text=a=b"]) == {
        "seeds": (1, 2),
        "mpt": {"rank": 2, "ablation": "no-hidden"},
        "warmup": 0.01,
        "target_epochs": {0: 20, 10_001: 10},
        "target_learning_rate": None,
        "init_text": "a=b",
    }
    assert collect_settings(options) == {"seeds": (1, 2)}


@pytest.mark.parametrize(
    ("assigned", "message"),
    [
        (["rank"], "--set rank: want NAME=VALUE, such as --set mpt.rank=2"),
        (["mpt.rank="], "--set mpt.rank=: want NAME=VALUE"),
        (["=2"], "--set =2: want NAME=VALUE"),
        (["seeds=1"], "--set seeds: this command has an option or argument for it"),
        (["mpt.rank=2", "mpt.rank=3"], "--set mpt.rank: given twice"),
        (["mpt.rank=[2"], "--set mpt.rank, line 1, column 3: "),
    ],
)
def test_assignments_that_are_refused(assigned: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        collect_settings({"seeds": None}, assigned)
    assert str(caught.value).startswith(message)


def test_what_is_refused_is_told_as_given_not_as_of_the_file() -> None:
    recipe = Recipe("r.yaml", {"mpt": {"rank": 0}})
    with pytest.raises(SettingsError) as caught:
        run_config(recipe, {"mpt": {"hiden": "last"}})
    assert str(caught.value).startswith("mpt.hiden: unknown setting; did you mean 'hidden'?")
    with pytest.raises(SettingsError) as caught:
        run_config(recipe, {"mpt": {"hidden": "lst"}})
    assert sorted(line.split(": ")[0] for line in str(caught.value).splitlines()) == ["mpt.hidden", "r.yaml"]
