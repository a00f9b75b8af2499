"""Recipes: what the shipped ones say, compared with numbers written down by hand, and how files are read."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from prompttransfer import RunConfig
from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.methods.budget import target_budget
from prompttransfer.settings.recipes import Recipe, SettingsError, read_recipe, recipe_names, run_config, setting_paths

T5_BASE, T5_LARGE, LLAMA = "google-t5/t5-base", "google-t5/t5-large", "meta-llama/Llama-3.2-1B"
SOURCES = {"glue/mnli", "glue/qnli", "glue/qqp", "glue/sst2", "mrqa/squad", "superglue/record"}
GLUE = {f"glue/{name}" for name in ("mnli", "qqp", "qnli", "sst2", "stsb", "mrpc", "rte", "cola")}
SUPERGLUE = {f"superglue/{name}" for name in ("multirc", "boolq", "wic", "wsc", "cb")}
MRQA = {f"mrqa/{name}" for name in ("nq", "hotpotqa", "searchqa", "newsqa")}
OTHERS = {f"others/{name}" for name in ("winogrande", "yelp", "scitail", "paws")}
NLG = {"nlg/e2e", "nlg/webnlg", "nlg/commongen"}
UNDERSTANDING = GLUE | SUPERGLUE | MRQA | OTHERS

# recipe -> setting -> value, as the papers and their code state it.
STATED: dict[str, dict[str, Any]] = {
    "papers/mpt_t5_base": {
        "model": T5_BASE,
        "prompt_length": 100,
        "max_length": 256,
        "source_batch_size": 32,
        "batch_size": 32,
        "learning_rate": 0.3,
        "target_learning_rate": 0.3,
        "target_epochs": {0: 20, 10_001: 10},
        "warmup": 0.1,
        "weight_decay": 1e-5,
        "schedule": "linear",
        "max_grad_norm": 1.0,
        "mpt.source_epochs": 5,
        "mpt.rank": 1,
        "mpt.distillation": 0.9,
        "mpt.factor_learning_rate": 0.4,
        "mpt.sampling": "stochastic",
        "mpt.mixing": "t5",
        "mpt.replacement": True,
        "mpt.decomposition": True,
        "mpt.trained": "both",
        "mpt.average": "means",
        "dropout": "model",
    },
    "papers/mpt_t5_small": {
        "model": "google-t5/t5-small",
        "source_batch_size": 100,
        "batch_size": 100,
        "prompt_length": 100,
        "mpt.factor_learning_rate": 0.4,
        "target_epochs": {0: 20, 10_001: 10},
    },
    "papers/mpt_t5_base_few4": {"train_rows": 4, "source_rows": None, "source_batch_size": 32, "dropout": "model"},
    "papers/mpt_t5_base_few16": {"train_rows": 16, "source_rows": None, "target_learning_rate": 0.3},
    "papers/mpt_t5_base_few32": {"train_rows": 32, "source_rows": None, "mpt.factor_learning_rate": 0.4},
    "papers/mpt_group_t5_base_glue": {"model": T5_BASE, "batch_size": 32, "mpt.distillation": 0.9},
    "papers/mpt_group_t5_base_superglue": {"model": T5_BASE, "batch_size": 32, "mpt.source_epochs": 5},
    "papers/mpt_t5_base_12_sources": {"model": T5_BASE, "mpt.sampling": "stochastic", "mpt.source_epochs": 5},
    "papers/mpt_t5_large": {
        "model": T5_LARGE,
        "prompt_length": 100,
        "source_batch_size": 12,
        "batch_size": 12,
        "learning_rate": 0.3,
        "target_learning_rate": 0.3,
        "mpt.factor_learning_rate": 0.4,
        "mpt.distillation": 0.9,
        "mpt.source_epochs": 5,
    },
    "papers/mpt_llama_1b": {"mpt.source_epochs": 5, "mpt.distillation": 0.9, "target_epochs": {0: 20, 10_001: 10}},
    "papers/bmtpt_t5_base": {"model": T5_BASE, "bmtpt.beta": 1.0},
    "papers/bmtpt_t5_large": {},
    "papers/bmtpt_llama_1b": {},
    "papers/dtvg_t5_base": {
        "model": T5_BASE,
        "prompt_length": 100,
        "max_length": 256,
        "target_updates": 30_000,
        "select_updates": 1000,
        "warmup_updates": 500,
        "weight_decay": 1e-5,
        "max_grad_norm": 1.0,
        "seeds": (42,),
        "dropout": "model",
        "dtvg.weight_decay": 0.0,
        "dtvg.rule": "consistent-prefix",
        "dtvg.metric": "token_mean_dot",
        "dtvg.positive_only": True,
        "dtvg.scale_start": "one",
        "dtvg.scaling": "per-token",
    },
    "papers/dtvg_t5_large": {"warmup_updates": 500, "weight_decay": 1e-5, "dtvg.rule": "consistent-prefix"},
    "papers/dtvg_llama_1b": {
        "model": LLAMA,
        "max_length": 256,
        "cue": " Label : ",
        "join": "separate",
        "source_batch_size": 16,
        "batch_size": 16,
        "learning_rate": 1e-3,
        "source_updates": 300_000,
        "dtvg.own_updates": 300_000,
        "target_updates": 30_000,
        "select_updates": 1000,
        "target_learning_rate": 1e-3,
        "dtvg.own_learning_rate": 1e-3,
        "dtvg.target_scale_learning_rate": 1e-3,
        "dtvg.source_scale_learning_rate": 1e-3,
        "warmup_updates": 500,
        "weight_decay": 1e-5,
        "max_grad_norm": 1.0,
        "prompt_length": 100,
        "seeds": (42,),
        "dtvg.weight_decay": 0.0,
    },
}

# recipe -> settings that no source states, as far as the recipe sets them.
UNSTATED = {
    "papers/mpt_t5_base": {
        "seeds",
        "source_epochs",
        "mpt.factor_start",
        "mpt.temperature",
        "mpt.temperature_squared",
        "mpt.hidden",
        "mpt.hidden_positions",
    },
    "papers/mpt_t5_base_few4": {"seeds", "target_updates", "batch_size"},
    "papers/mpt_llama_1b": {"model", "learning_rate", "batch_size", "mpt.factor_learning_rate", "mpt.temperature"},
    "papers/bmtpt_t5_base": {
        "bmtpt.particles",
        "bmtpt.prior",
        "dropout",
        "learning_rate",
        "source_epochs",
        "bmtpt.bandwidth",
    },
    "papers/dtvg_t5_base": {"learning_rate", "batch_size", "target_learning_rate", "dtvg.own_epochs", "source_epochs"},
    "papers/dtvg_t5_large": {"model", "targets", "learning_rate", "target_updates"},
    "papers/dtvg_llama_1b": {"targets"},
}


def value(config: RunConfig, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def test_what_is_shipped() -> None:
    assert recipe_names() == sorted(["demo", "quick", *STATED])


@pytest.mark.parametrize("name", sorted(STATED))
def test_numbers_of_a_paper(name: str) -> None:
    recipe = read_recipe(name)
    config = run_config(recipe, {})
    assert {path: value(config, path) for path in STATED[name]} == STATED[name]
    assert set(STATED[name]) <= set(recipe.about.origin)
    assert UNSTATED.get(name, set()) <= set(recipe.about.unknown)
    more = {f"extra/{name}" for name in ("agnews", "commonsenseqa", "openbookqa", "arc", "anli")} | {
        "others/winogrande"
    }
    assert set(config.sources) == SOURCES | (more if name.endswith("12_sources") else set())
    assert config.test_rows is None and config.source_rows is None
    assert config.train_rows == STATED[name].get("train_rows")
    assert config.answers == "digits" and config.placement == "encoder"


@pytest.mark.parametrize("name", sorted(STATED))
def test_every_value_has_an_origin_or_is_marked(name: str) -> None:
    """Nothing is invented in silence; what is ours is also marked where a reader of the file sees it."""
    recipe = read_recipe(name)
    origin, unknown = set(recipe.about.origin), set(recipe.about.unknown)
    assert not origin & unknown
    assert set(setting_paths(recipe.settings)) - {"methods", "output"} == origin | unknown
    assert all(re.match(r"\[[PCDSA]\]", text) for text in recipe.about.origin.values())
    folder = Path(__import__("prompttransfer").__file__).parent / "settings" / "shipped"
    file = folder / f"{name}.yaml"
    own = {path for path in setting_paths(read_yaml(file)) if path in unknown}
    lines = re.split("\n(?:origin|unknown):", file.read_text())[0].splitlines()
    assert sum(line.endswith("# ours") for line in lines) == len(own)


@pytest.mark.parametrize("name", sorted(STATED))
def test_nothing_is_said_to_be_secret_that_we_have_not_read(name: str) -> None:
    about = read_recipe(name).about
    text = " ".join([about.about, *about.origin.values(), *about.unknown.values(), *about.departures])
    assert "public;" not in text and "not public" not in text and "nobody" not in text


def test_dropout_is_that_of_the_published_loops() -> None:
    """T5 has a dropout of 0.1, and Llama has none."""
    for name in STATED:
        expected = "off" if "llama" in name else "model"
        assert run_config(read_recipe(name), {}).dropout == expected, name


def test_batches_of_the_two_stages_of_dtvg() -> None:
    """Its script of T5-base for stage 1 has 32 rows, that for stage 2 has 16; those of Llama have 16."""
    for name, first, second in (("t5_base", 32, 16), ("t5_large", 32, 16), ("llama_1b", 16, 16)):
        config = run_config(read_recipe(f"papers/dtvg_{name}"), {})
        assert (config.source_batch_size, target_budget(config, 100).own_rows, config.batch_size) == (
            first,
            first,
            second,
        )


def test_few_shot_recipes_draw_ten_times() -> None:
    for rows in (4, 16, 32):
        config = run_config(read_recipe(f"papers/mpt_t5_base_few{rows}"), {})
        assert config.train_rows == rows and len(set(config.seeds)) == 10 and not config.retrain_sources
        assert set(config.targets) == GLUE | SUPERGLUE | {"others/scitail"}
        assert target_budget(config.for_task("glue/rte"), rows)[:2] == (0, 1000)


BASED = """
base: lower.yaml
train_rows: 5
mpt: {rank: 2}
origin: {train_rows: "[P] five", seeds: "[C] seeds"}
unknown: {"mpt.*": mine}
departures: [of the upper]
"""


def test_a_recipe_on_top_of_another(tmp_path: Path) -> None:
    (tmp_path / "lower.yaml").write_text(
        "about: lower\ntrain_rows: 9\nseeds: [1]\ntarget_epochs: 3\nwarmup: 0.2\nmpt: {rank: 7, distillation: 0.5}\n"
        "unknown: {'*': as before, warmup: a guess, seeds: any}\norigin: {mpt.rank: '[P] seven'}\n"
        "departures: [of the lower]\n"
    )
    (tmp_path / "upper.yaml").write_text(BASED + "target_updates: 4\n")
    recipe = read_recipe(tmp_path / "upper.yaml")
    assert recipe.settings == {
        "train_rows": 5,
        "seeds": [1],
        "target_updates": 4,  # in place of the epochs
        "warmup": 0.2,
        "mpt": {"rank": 2, "distillation": 0.5},
    }
    about = recipe.about
    assert about.about == "lower" and about.departures == ("of the lower", "of the upper")
    assert about.origin == {"train_rows": "[P] five", "seeds": "[C] seeds"}
    assert about.unknown == {"warmup": "a guess", "mpt.distillation": "as before", "mpt.rank": "mine"}
    (tmp_path / "lower.yaml").write_text("base: upper.yaml\n")
    with pytest.raises(ValueError, match=r"lower\.yaml: is its own base|upper\.yaml: is its own base"):
        read_recipe(tmp_path / "upper.yaml")


def test_the_longest_pattern_speaks_for_a_setting(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "methods: [PT]\noutput: x\nseeds: [1]\nwarmup: 0.1\nbmtpt: {rank: 2, beta: 1.0}\n"
        "unknown: {'*': any, 'bmtpt.*': block, bmtpt.beta: own}\norigin: {seeds: '[P] one'}\n"
    )
    about = read_recipe(file).about
    assert about.unknown == {"warmup": "any", "bmtpt.rank": "block", "bmtpt.beta": "own"}


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("mpt_t5_base", UNDERSTANDING),
        ("mpt_t5_large", {"superglue/multirc", "superglue/boolq", "superglue/wic", "nlg/e2e", "nlg/webnlg"}),
        ("mpt_t5_small", {"superglue/multirc", "superglue/boolq", "superglue/wic"}),
        ("mpt_group_t5_base_glue", GLUE),
        ("mpt_group_t5_base_superglue", SUPERGLUE),
        ("mpt_t5_base_12_sources", MRQA | OTHERS),
        ("dtvg_t5_base", UNDERSTANDING | NLG | {"mrqa/squad", "superglue/record"}),
    ],
)
def test_targets_of_a_paper(name: str, targets: set[str]) -> None:
    config = run_config(read_recipe(f"papers/{name}"), {})
    assert set(config.targets) == targets and len(config.targets) == len(targets)
    exceptions = {"mrqa/*": 5} if name.startswith("mpt") else {"nlg/*": None}
    assert {pattern: own.target_epochs for pattern, own in config.per_task.items()} == exceptions


def test_generation_of_dtvg_reads_128_tokens() -> None:
    assert run_config(read_recipe("papers/dtvg_t5_base"), {}).for_task("nlg/e2e").max_length == 128


def test_demo_is_what_a_run_without_options_does() -> None:
    assert run_config(read_recipe("demo"), {}) == RunConfig()


def test_limit_cuts_rows_and_updates(tmp_path: Path) -> None:
    config = run_config(read_recipe("papers/dtvg_llama_1b"), {}, limit=32)
    assert (config.train_rows, config.test_rows, config.source_rows, config.max_updates) == (32, 32, 32, 32)
    assert run_config(Recipe(), {"train_rows": 8}, limit=32).train_rows == 8


OPTIONS = [
    ({"target_updates": 9}, {"target_updates": 9, "target_epochs": None}),
    ({"source_updates": 9}, {"source_updates": 9, "source_epochs": None, "mpt.source_epochs": None}),
    ({"batch_size": 4, "train_rows": "7"}, {"batch_size": 4, "train_rows": 7, "target_epochs": {0: 20, 10_001: 10}}),
]


@pytest.mark.parametrize(("options", "expected"), OPTIONS)
def test_options_win(options: dict[str, Any], expected: dict[str, Any]) -> None:
    config = run_config(read_recipe("papers/mpt_t5_base"), options)
    assert {path: value(config, path) for path in expected} == expected


def test_options_win_over_exceptions_of_tasks(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("per_task:\n  sst2: {target_epochs: 3, batch_size: 2, target_learning_rate: 0.5}\n")
    config = run_config(read_recipe(file), {"target_updates": 9, "batch_size": 4}).for_task("sst2")
    assert (config.target_updates, config.target_epochs, config.batch_size) == (9, None, 4)
    assert config.target_learning_rate == 0.5


def test_options_win_over_exceptions_of_methods() -> None:
    recipe = Recipe(settings={"per_method": {"MPT": {"target_learning_rate": 0.5}}})
    assert run_config(recipe, {}).for_task("sst2", "MPT").target_rate == 0.5
    assert run_config(recipe, {"target_learning_rate": 0.1}).for_task("sst2", "MPT").target_rate == 0.1


def test_yaml_and_json_say_the_same(tmp_path: Path) -> None:
    settings = {"methods": ["PT", "MPT"], "mpt": {"rank": 2}, "train_rows": "all", "warmup": 1e-2}
    (tmp_path / "r.json").write_text(json.dumps(settings))
    (tmp_path / "r.yml").write_text("methods: [PT, MPT]\nmpt:\n  rank: 2\ntrain_rows: all\nwarmup: 1e-2\n")
    one, other = (run_config(read_recipe(tmp_path / name), {}) for name in ("r.json", "r.yml"))
    assert one == other == RunConfig(**settings)


def test_settings_of_a_run_are_a_recipe(tmp_path: Path) -> None:
    config = run_config(read_recipe("papers/mpt_t5_base"), {})
    (tmp_path / "config.json").write_text(json.dumps(config.model_dump(mode="json")))
    assert run_config(read_recipe(tmp_path / "config.json"), {}) == config


BAD = [
    ("mpt:\n  tempreature: 2\n", "FILE: mpt.tempreature: unknown setting; did you mean 'temperature'?"),
    ("trian_rows: 3\n", "FILE: trian_rows: unknown setting; did you mean 'train_rows'?"),
    ("per_task:\n  cb: {bach_size: 3}\n", "FILE: per_task.cb.bach_size: unknown setting; did you mean 'batch_size'?"),
    ("mpt:\n  rnk: 1\n  hiden: last\n", "FILE: mpt.hiden: unknown setting; did you mean 'hidden'?"),
    ("train_rows: many\n", "FILE: train_rows: want a whole number of rows, or all, got 'many'"),
    ("mpt: {rank: [1]}\n", "FILE: mpt.rank: Input should be a valid integer, got [1]"),
    ("bmtpt: {bandwidth: wide}\n", "FILE: bmtpt.bandwidth: Input should be a valid number"),
    ("bmtpt: {bandwidth: wide}\n", "or: Input should be 'liu2016', 'numpyro' or 'blackjax', got 'wide'"),
    ("mpt: 3\n", "FILE: mpt: Input should be a valid dictionary"),
    ("train_rows: 1\ntrain_rows: 2\n", "FILE, line 2, column 1: key 'train_rows' is given twice"),
    ("mpt:\n  rank: 1\n  rank: 2\n", "FILE, line 3, column 3: key 'rank' is given twice"),
    ("mpt: [1\nseeds: 2\n", "FILE, line 2"),
    ("- PT\n", "FILE: got a list, want settings by name"),
    ("", "FILE: got nothing, want settings by name"),
    ("unknown: {trainrows: why}\n", "FILE: unknown.trainrows: the file does not set 'trainrows'"),
    ("origin: [1]\n", "FILE: origin: Input should be a valid dictionary"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_bad_file_is_told_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(ValueError) as caught:
        run_config(read_recipe(file), {})
    assert message.replace("FILE", str(file)) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"train_rows": 1, "train_rows": 2}', "key 'train_rows' is given twice"),
        ('{"train_rows": 1,\n "seeds": }', "not JSON: Expecting value in line 2, column 11"),
    ],
)
def test_bad_json(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_recipe(tmp_path / "r.json")


def test_an_option_that_is_refused_is_no_fault_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("seeds: [x]\n")
    with pytest.raises(SettingsError) as caught:
        run_config(read_recipe(tmp_path / "r.yaml"), {"train_rows": "0"})
    of_file, of_option = sorted(str(caught.value).splitlines(), key=lambda line: line.startswith("train_rows"))
    assert of_file.startswith(f"{tmp_path / 'r.yaml'}: seeds.0: ") and of_option.startswith("train_rows: ")


def test_a_misspelt_recipe_has_a_suggestion() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean 'papers/mpt_t5_base'"):
        read_recipe("mpt_t5base")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml does not exist"):
        read_recipe("nowhere.yaml")
