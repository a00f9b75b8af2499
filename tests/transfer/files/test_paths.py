"""Home folders and paths: an account without a home folder, ~ in every path, models that are found from anywhere."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.cli.checks import examine
from prompttransfer.files.paths import NoHome, anywhere, expanded, settle_home
from prompttransfer.interchange import Card, read_card, write_prompt
from prompttransfer.tasks.names import file_paths

runner = CliRunner()
PLACES = ("HOME", "PROMPTTRANSFER_CACHE", "HF_HOME", "HF_HUB_CACHE")


def run(*arguments: object) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account without a home folder, in a folder where it may write."""

    def nobody(_: object) -> Any:
        raise KeyError("uid not found")

    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prompt_file(folder: Path, **card: Any) -> Path:
    known = {"model": "nobody/nothing", "template": "{text}", "choices": ("no", "yes")}
    write_prompt(folder / "p.safetensors", torch.ones(2, 16), Card(**(known | card)).metadata())
    return folder / "p.safetensors"


def table(folder: Path) -> Path:
    rows = "".join(f"w{n} w{n % 7},{('no', 'yes')[n % 2]}\n" for n in range(30))
    (folder / "t.csv").write_text(f"text,label\n{rows}")
    return folder / "t.csv"


def model_folder(folder: Path) -> Path:
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "compare -q",
        "train t.csv new.safetensors --model m",
        "train t.csv new.safetensors --model nobody/nothing",
        "evaluate p.safetensors t.csv",
        "predict p.safetensors w1",
        "predict p.safetensors w1 --model other/nothing",
        "predict p.safetensors w1 --model demo",
        "predict p.safetensors --file ~/t.csv",
        "validate demo",
        "validate demo --model nobody/nothing",
        "assets",
        "assets --fetch",
        "assets --remove stages",
    ],
)
def test_an_account_without_a_home_folder_is_told_what_to_set(homeless: Path, words: str) -> None:
    prompt_file(homeless), table(homeless), model_folder(homeless / "m")
    result = run(*words.split())
    assert result.exit_code == 1 and "PROMPTTRANSFER_CACHE" in result.stderr, result.output
    assert "--debug" not in result.stderr and not (homeless / "~").exists()


def test_what_needs_no_home_folder_runs_without(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, file = model_folder(homeless / "m"), prompt_file(homeless)
    assert run("predict", file, "w1", "--model", model, "--json").exit_code == 0
    assert "no such folder" in run("predict", file, "w1", "--model", "./none").stderr
    assert run("assets", "--tasks").exit_code == 0
    findings = {each.name: each for each in examine(offline=True)}
    assert findings["cache"].state == "problem" and "PROMPTTRANSFER_CACHE" in findings["cache"].advice
    assert findings["demo"].state == "note"
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(homeless / "cache"))
    trained = run("train", table(homeless), "new.safetensors", "--model", "m", "--updates", "1", "-q")
    assert trained.exit_code == 0, trained.output
    assert not (homeless / "~").exists()


def test_the_files_of_the_hub_go_where_the_cache_is(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_home()
    assert "HF_HOME" not in os.environ
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", "/data/cache")
    monkeypatch.setenv("HF_HOME", "")  # put back afterwards
    monkeypatch.delenv("HF_HOME")
    settle_home()
    assert os.environ["HF_HOME"] == "/data/cache/huggingface"
    monkeypatch.setenv("HF_HOME", "/own")
    settle_home()
    assert os.environ["HF_HOME"] == "/own"


@pytest.mark.parametrize("home", ["/proc", "/dev/null"])
def test_a_home_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "m"), table(tmp_path)
    result = run("train", "t.csv", "p.safetensors", "--model", "m", "--updates", "1", "-q")
    assert result.exit_code in (1, 2) and f"{home}/.cache" in result.stderr
    assert "; set PROMPTTRANSFER_CACHE to a writable folder" in result.stderr
    assert "--debug" not in result.stderr
    finding = next(each for each in examine(offline=True) if each.name == "cache")
    assert finding.state == "problem" and "PROMPTTRANSFER_CACHE" in finding.advice


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~") == tmp_path and expanded("~/a b") == tmp_path / "a b"
    assert expanded("~no-such-account/x") == Path("~no-such-account/x") and expanded("a/~") == Path("a/~")
    config = RunConfig(model="~/m", output="~/o", cache="~/c", data_dir="~/d")
    assert config.model == str(tmp_path / "m") and RunConfig(model="./m").model == "./m"
    assert (config.output, config.cache, config.data_dir) == tuple(tmp_path / name for name in "ocd")
    assert file_paths("~/a.csv:~/b.csv") == [tmp_path / "a.csv", tmp_path / "b.csv"]
    file = prompt_file(tmp_path)
    assert run("library", "add", "~/p.safetensors", "--library=~/lib").exit_code == 0
    assert (tmp_path / "lib" / file.name).is_file()
    assert run("export", "~/p.safetensors", "~/adapter", "--causal").exit_code == 0
    monkeypatch.setenv("PROMPTTRANSFER_LIBRARY", "~/lib")
    assert json.loads(run("library", "list", "--json").stdout).keys() == {"p"}
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", "~/kept")
    assert f"cache: {tmp_path}/kept" in run("assets").stdout


def test_a_home_folder_is_only_needed_for_a_tilde(homeless: Path) -> None:
    assert expanded("a/b") == Path("a/b") and expanded("~x") == Path("~x")
    with pytest.raises(NoHome, match="PROMPTTRANSFER_CACHE"):
        expanded("~/x")


def test_the_model_of_a_card_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the same model under another path is the same model: its stages are found again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    model = model_folder(tmp_path / "deep" / "m")
    table(tmp_path)
    kept = []
    for number, spelt in enumerate(("deep/m", "./deep/../deep/m", str(model), "~/deep/m")):
        options = ["--model", spelt, "--updates", "2", "--prompt-length", "2", "--precision", "float32", "-q"]
        trained = run("train", "t.csv", f"p{number}.safetensors", *options)
        assert trained.exit_code == 0, trained.output
        assert read_card(tmp_path / f"p{number}.safetensors").model == str(model)
        kept.append(sorted(path.name for path in (tmp_path / "cache" / "stages" / "done").iterdir()))
    assert kept[0] and all(names == kept[0] for names in kept)
    assert run("export", "p0.safetensors", "one").exit_code == 0
    assert run("export", "p0.safetensors", "two", "--model", "deep/m").exit_code == 0
    for folder in ("one", "two"):
        config = json.loads((tmp_path / folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(model)
    assert run("import", "one", "again.safetensors", "--model", "./deep/m").exit_code == 0
    assert read_card(tmp_path / "again.safetensors").model == str(model)
    monkeypatch.chdir("/")
    assert run("predict", tmp_path / "p0.safetensors", "w1", "--json").exit_code == 0


def test_names_that_are_no_folders_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert [anywhere(name) for name in ("", "demo", "gpt2", "some/model")] == ["", "demo", "gpt2", "some/model"]
    (tmp_path / "gpt2").mkdir()
    assert anywhere("gpt2") == str(tmp_path / "gpt2")  # as transformers reads it
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "inner")
    assert anywhere("link") == str(tmp_path / "link")
    assert anywhere("link/../inner") == str(tmp_path / "real" / "inner")
