"""The help of every command: its examples run, as do those of the pages; its own page says the same; the shell
completes it."""

import gzip
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from documented import ROOT, cli_commands, examples, named, shown
from pyarrow import csv, parquet
from tiny import byte_tokenizer, tiny_llama, toy_task
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.cli import completion
from prompttransfer.estimate.cost import Machine
from prompttransfer.methods import METHODS
from prompttransfer.tasks import DEMO_TASKS, PAPER_TASKS
from prompttransfer.tasks.task import Wording

COMMANDS = cli_commands()
PAGE = ROOT / "docs" / "cli.md"
# The models of the papers' recipes are not here, nor is a hub; recipes and uploads have tests of their own.
NOT_RUN = (
    "prompttransfer compare --recipe papers/mpt_t5_base --limit 32",
    "prompttransfer export reviews.safetensors reviews-hub --push",
    "prompttransfer predict user/reviews",
)
PAGES = ("index.md", "compare.md", "tasks.md", "paper-tasks.md", "recipes.md", "prompts.md", "peft.md")


def test_page_of_the_documentation_is_up_to_date(tmp_path: Path) -> None:
    (command,) = [command for command in named(ROOT / "CONTRIBUTING.md") if "utils docs" in command]
    _, *words = shlex.split(command)
    words[words.index("docs/cli.md")] = str(tmp_path / "cli.md")
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert PAGE.read_text() == (tmp_path / "cli.md").read_text(), command


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_speaks_json_and_shows_tracebacks(name: str) -> None:
    command = COMMANDS[name]
    assert any(re.search(rf"{name}\b", example) for example in examples(command))
    assert {"--debug", "--json"} <= {option for each in command.params for option in each.opts}


def shell(example: str) -> Any:
    """Run an example like a shell: standard input from `cat FILE |`, without anything after `>`."""
    source, _, line = example.rpartition("| ")
    line = line.split(" > ")[0]
    words = shlex.split(line)[1:]
    if words[0] in ("compare", "train"):
        words += ["--limit", "4", "--precision", "float32"]
    if words[0] == "compare" and "--methods" not in words:
        words += ["--methods", "PT,MPT"]
    if example == "prompttransfer compare":
        words += ["--targets", "sst2"]
    return CliRunner().invoke(cli.app, words, input=Path(source.split()[1]).read_text() if source else None)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name; named tasks are toys, the demo's model is a tiny one."""
    tokenizer = byte_tokenizer()
    for folder in (tmp_path / "my" / "folder", tmp_path / "path" / "to" / "model", tmp_path / "demo-model"):
        tiny_llama(len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    tables = ("reviews", "tweets", "new-reviews", "train", "mine-train", "test", "mine-test")
    for place, name in enumerate(tables):
        first = 20 * place
        rows = [f"w{n} v{n},{'good' if n % 3 else 'bad'},w{n},b{n},{n % 2}" for n in range(first, first + 20)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label,review,body,stars", *rows]) + "\n")
    parquet.write_table(csv.read_csv(tmp_path / "train.csv"), tmp_path / "train.parquet")
    lines = [json.dumps(row) for row in csv.read_csv(tmp_path / "test.csv").to_pylist()]
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "lines.txt").write_text("w1 w2\nw3\n")
    (tmp_path / "my-recipe.yaml").write_text("model: my/folder\ntargets: [reviews.csv]\nsources: [tweets.csv]\n")
    words = {name: number for number, name in enumerate([*DEMO_TASKS, *PAPER_TASKS])}

    def toy(name: str, **_: Any) -> Any:
        task = toy_task(name.replace("/", "-"), words[name] % 20)
        return replace(task, wording=Wording("{text}\nLabel:"))

    monkeypatch.setattr("prompttransfer.tasks.load_demo", toy)
    monkeypatch.setattr("prompttransfer.tasks.load_paper", toy)
    monkeypatch.setattr("prompttransfer.files.assets.demo_model", lambda progress: tmp_path / "demo-model")
    monkeypatch.setattr("prompttransfer.files.assets.fetch", lambda name, progress: tmp_path / name)
    monkeypatch.setattr("prompttransfer.estimate.cost.probe", lambda *_: Machine("CPU", False, 10**12, 1e9, False))
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.docs
@pytest.mark.slow
def test_examples_run_one_after_the_other(desk: Path) -> None:
    for example in (example for command in COMMANDS.values() for example in examples(command)):
        if example.startswith(NOT_RUN):
            continue
        if example.startswith("prompttransfer report"):
            shutil.copytree("runs/pairs", "runs/other", dirs_exist_ok=True)
        if example.startswith("prompttransfer import"):
            shutil.copytree("amazon-adapter", "my-adapter")
        if example.startswith("prompttransfer similar"):
            for folder in ("library", "prompts"):
                shell(f"prompttransfer library add runs/demo --library {folder} --replace")
        result = shell(example)
        allowed = (0, 1) if example.startswith("prompttransfer validate") else (0,)  # 1: things are missing, truly
        assert result.exit_code in allowed, f"{example}\n{result.output}"
        if "--json" in example:
            for line in result.stdout.splitlines() if "predict" in example else [result.stdout]:
                json.loads(line)


@pytest.mark.docs
@pytest.mark.slow
def test_commands_of_the_pages_run(desk: Path) -> None:
    assert shell("prompttransfer compare").exit_code == 0  # whose folder some of them name
    for page in PAGES:
        commands = [command for command in shown(ROOT / "docs" / page) if command.startswith("prompttransfer")]
        assert commands, page
        for command in commands:
            if not command.startswith(NOT_RUN):
                if command.startswith("prompttransfer import my-adapter"):
                    shutil.copytree("reviews-adapter", "my-adapter")
                result = shell(command)
                allowed = (0, 1) if command.startswith("prompttransfer validate") else (0,)
                assert result.exit_code in allowed, f"{page}: {command}\n{result.output}"


TYPED = [
    ("comp", "compare"),
    ("compare --methods PT,MP", "PT,MPT PT,MPT-group"),
    ("train am", "amazon"),
    ("compare --targets glue/mr", "glue/mrpc"),
    ("compare --precision b", "bfloat16"),
    ("compare --recipe papers/mpt_l", "papers/mpt_llama_1b"),
    ("compare --model d", "demo"),
    ("assets sca", "scattertext"),
    ("doctor --off", "--offline"),
]


@pytest.mark.parametrize(("typed", "completed"), TYPED)
def test_shell_completes_names(typed: str, completed: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    words = f"prompttransfer {typed}"
    environment = {
        "_PROMPTTRANSFER_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner().invoke(cli.app, [], prog_name="prompttransfer", env=environment)
    assert result.stdout.split() == completed.split()


def test_names_to_complete_are_those_of_methods_and_tasks() -> None:
    assert (*DEMO_TASKS, *PAPER_TASKS) == completion.TASK_NAMES
    assert tuple(METHODS) == completion.METHOD_NAMES
    assert completion.setting("scoring")("") == ["auto", "first-token", "full", "generate"]
    assert completion.setting("variant")("") == ["paper", "code"] and "variant" in RunConfig.model_fields
    assert {"train_rows=", "mpt.rank=", "dtvg.rule="} <= set(completion.assignment(""))
    assert completion.assignment("dtvg.own_f") == ["dtvg.own_fraction="]
    assert completion.assignment("mpt.variant=p") == ["mpt.variant=paper"]
    assert completion.assignment("nothing=") == [] == completion.assignment("mpt.rank=")


def test_models_of_the_hub_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "models--some--model-7b").mkdir()
    (tmp_path / "datasets--some--set").mkdir()
    assert completion.model("so") == ["some/model-7b"]


def test_piped_help_has_no_control_characters() -> None:
    for words in ([], ["compare"], ["library", "add"]):
        text = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80"}).stdout
        assert "\x1b" not in text and max(map(len, text.splitlines())) <= 80
