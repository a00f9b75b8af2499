"""Prompts on a hub: pushed to and read from a server of the tests' own, through huggingface_hub."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hub_server import TOKEN, Hub, Repository, running_hub
from huggingface_hub import ModelCard
from tiny import tiny_llama, tiny_tokenizer
from typer.testing import CliRunner

from prompttransfer import Library, Predictor, cli
from prompttransfer.interchange import (
    Card,
    import_peft,
    push_prompt,
    read_card,
    read_prompt,
    read_trained,
    write_prompt,
    write_tensors,
)
from prompttransfer.prompts import OffsetPrompt

runner = CliRunner()
CARD = Card(
    model="tiny/llama",
    architecture="causal",
    task="glue/sst2",
    method="MPT",
    seed=42,
    metric="accuracy",
    score=87.5,
    scores={"majority": 50.0, "zero_shot": 61.25},
    scoring="first-token",
    choices=("no", "yes"),
    template="{text}\n\nAnswer:",
    licence="Apache-2.0",
)
PROMPT = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
FILES = {
    ".gitattributes",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "prompt.safetensors",
    "prompt_cards.json",
}


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As if HF_ENDPOINT had been set when huggingface_hub was imported."""
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", url)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", url)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Logged in, with an empty cache."""
    with running_hub() as hub:
        use_endpoint(monkeypatch, hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def prompt(tmp_path: Path) -> Path:
    write_prompt(tmp_path / "reviews.safetensors", PROMPT, CARD.metadata())
    return tmp_path / "reviews.safetensors"


def save_model(folder: Path) -> dict[str, bytes]:
    """Files of the model that the prompt belongs to."""
    tiny_llama().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_pushed_prompt_comes_back(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    pushed = push_prompt(prompt, "user/reviews", tmp_path / "folder")
    repository = hub.repositories["user/reviews"]
    assert pushed == (f"{hub.url}/user/reviews", repository.head) and len(repository.commits) == 2
    assert not repository.private and repository.files.keys() == FILES
    assert repository.files == {".gitattributes": b""} | {
        path.name: path.read_bytes() for path in (tmp_path / "folder").iterdir()
    }
    assert safetensors.torch.load(repository.files["prompt.safetensors"])["prompt"].equal(PROMPT)
    read, _ = read_prompt("user/reviews")
    assert read.equal(PROMPT) and read_card("user/reviews") == CARD
    (imported,) = import_peft("user/reviews")
    assert imported.prompt.equal(PROMPT) and imported.card == CARD
    assert not [path for path in tmp_path.rglob(".new-*")]


def test_revisions(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    first = push_prompt(prompt, "user/reviews", tmp_path / "1").revision
    write_prompt(prompt, PROMPT + 1, CARD.metadata())
    second = push_prompt(prompt, "user/reviews", tmp_path / "2").revision
    assert read_prompt(f"user/reviews@{first}")[0].equal(PROMPT)
    assert read_prompt("user/reviews")[0].equal(PROMPT + 1) and read_prompt(f"user/reviews@{second}")[0].equal(
        PROMPT + 1
    )
    with pytest.raises(ValueError, match=r"^user/reviews@v9: the repository has no revision 'v9'; want a branch"):
        read_prompt("user/reviews@v9")


def test_prompt_that_depends_on_the_row(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    """It has no adapter, and replaces what an earlier push has left of one."""
    push_prompt(prompt, "user/reviews", tmp_path / "1")
    tensors = {"short": torch.randn(2, 16), "offset_a": torch.randn(64, 2), "offset_b": torch.randn(2, 16)}
    write_tensors(tmp_path / "module.safetensors", tensors, CARD.metadata())
    push_prompt(tmp_path / "module.safetensors", "user/reviews", tmp_path / "2")
    files = hub.repositories["user/reviews"].files
    assert files.keys() == {".gitattributes", "README.md", "prompt.safetensors"}
    assert len(hub.repositories["user/reviews"].commits) == 3
    read, metadata = read_trained("user/reviews")
    assert isinstance(read, OffsetPrompt) and metadata == CARD.metadata()
    assert all(read.tensors()[name].equal(tensor) for name, tensor in tensors.items())
    assert "library_name: prompttransfer" in files["README.md"].decode() and "PEFT" not in files["README.md"].decode()


def test_model_card(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    card = ModelCard(hub.repositories["user/reviews"].files["README.md"].decode())
    assert card.data.to_dict() == {
        "base_model": "tiny/llama",
        "datasets": ["nyu-mll/glue"],
        "library_name": "peft",
        "license": "apache-2.0",
        "metrics": ["accuracy"],
        "pipeline_tag": "text-classification",
        "tags": ["prompttransfer", "prompt-tuning", "soft-prompt"],
        "model-index": [
            {
                "name": "reviews",
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"type": "nyu-mll/glue", "name": "glue/sst2", "config": "sst2"},
                        "metrics": [{"type": "accuracy", "value": 87.5}],
                    }
                ],
            }
        ],
    }
    for line in (
        "Metric: `accuracy`, on test rows.",
        "| this prompt | 87.5 |",
        "| the model without a prompt (zero-shot) | 61.2 |",
        "| the most frequent answer (majority) | 50.0 |",
        "    {text}",
        "    Answer:",
        "Answers: `no`, `yes`.",
        "`Apache-2.0`",
    ):
        assert line in card.text.splitlines(), line


def test_lines_of_the_model_card_run(hub: Hub, prompt: Path, tmp_path: Path, capsys: Any) -> None:
    hub.repositories["tiny/llama"] = Repository()
    hub.repositories["tiny/llama"].commit(save_model(tmp_path / "model"))
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    text = hub.repositories["user/reviews"].files["README.md"].decode()
    ours, peft = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert ours.count("\n") == peft.count("\n") == 3
    exec(ours.replace('"..."', '"w1 w2"'), {})
    want = Predictor.open(prompt, model=str(tmp_path / "model"))(["w1 w2"])[0].label
    assert capsys.readouterr().out == f"{want}\n"
    names: dict[str, Any] = {}
    exec(peft, names)
    assert names["model"].get_prompt(1)[0].equal(PROMPT)


def test_calls_that_a_model_card_explains(hub: Hub, tmp_path: Path) -> None:
    """Several fields, free text, and half of the prompt before the decoder."""
    card = Card(
        model="tiny/t5",
        architecture="seq2seq",
        placement="encoder-decoder",
        scoring="generate",
        template="{question} in {context}",
    )
    write_prompt(tmp_path / "p.safetensors", torch.ones(4, 16), card.metadata())
    push_prompt(tmp_path / "p.safetensors", "user/qa", tmp_path / "folder")
    text = hub.repositories["user/qa"].files["README.md"].decode()
    assert 'predictor([{"question": "...", "context": "..."}])[0].label' in text and "Answers: free text." in text
    assert 'AutoModelForSeq2SeqLM.from_pretrained("tiny/t5")' in text and "`task_ids`: a 0 for each row" in text
    assert "pipeline_tag: text-generation" in text and "## Scores" not in text and "model-index" not in text


def test_text_of_others_is_code_in_the_model_card(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    hostile = "---\nlicense: mit\n---\n# `<script>`"
    card = CARD.model_copy(update={"task": hostile, "method": hostile, "choices": (hostile, "b"), "metric": "accuracy"})
    write_prompt(prompt, PROMPT, card.metadata())
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    read = ModelCard(hub.repositories["user/reviews"].files["README.md"].decode())
    assert read.data.license == "apache-2.0" and read.data.eval_results[0].dataset_name == hostile
    lines = [line for line in read.text.splitlines() if "script" in line]
    assert len(lines) == 2 and all(re.search(r"`--- license: mit --- # '<script>'`", line) for line in lines)
    assert read_card("user/reviews") == card


def test_model_and_licence_of_the_push_are_on_the_card(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    """A folder of this machine means nothing to others, and its path is not for them."""
    (tmp_path / "llama").mkdir()
    write_prompt(prompt, PROMPT, CARD.model_copy(update={"model": str(tmp_path / "llama")}).metadata())
    with pytest.raises(ValueError, match=r"its model is '.*llama', which others cannot load; want --model"):
        push_prompt(prompt, "user/reviews", tmp_path / "folder")
    assert hub.asked == [] and not (tmp_path / "folder").exists()
    push_prompt(prompt, "user/reviews", tmp_path / "folder", base_model="tiny/llama", licence="mit")
    assert read_card("user/reviews") == CARD.model_copy(update={"licence": "mit"})
    assert not [
        name for name, content in hub.repositories["user/reviews"].files.items() if str(tmp_path).encode() in content
    ]


def test_local_path_wins(hub: Hub, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    hub.asked.clear()
    monkeypatch.chdir(tmp_path)
    write_prompt(Path("user/reviews"), PROMPT + 1, {})
    assert read_prompt(Path("user/reviews"))[0].equal(PROMPT + 1)
    for name in ("runs/reviews.safetensors", "./reviews", "a/b/c", "reviews", "/reviews", "~/reviews", "user/re views"):
        with pytest.raises(ValueError, match="no such prompt file"):
            read_prompt(name)
    assert hub.asked == []


def test_without_a_connection(hub: Hub, prompt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    read_prompt("user/reviews")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert read_prompt("user/reviews")[0].equal(PROMPT)
    with pytest.raises(ConnectionError, match=r"cache, and HF_HUB_OFFLINE is set\nFetch it .*hf download user/other"):
        read_prompt("user/other")
    with pytest.raises(ConnectionError, match="user/new: HF_HUB_OFFLINE is set; unset it to push"):
        push_prompt(prompt, "user/new", tmp_path / "new")
    assert hub.asked == [] and not (tmp_path / "new").exists()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    use_endpoint(monkeypatch, closed := "http://127.0.0.1:9")
    assert read_prompt("user/reviews")[0].equal(PROMPT)
    with pytest.raises(ConnectionError, match=rf"user/other: .* and {closed} does not give it \(.*refused"):
        read_prompt("user/other")
    with pytest.raises(ConnectionError, match=rf"user/new: {closed} does not answer \(.*refused"):
        push_prompt(prompt, "user/new", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def _private(hub: Hub) -> None:
    hub.repositories["user/reviews"].private = True
    os.environ.pop("HF_TOKEN")


def _gated(hub: Hub) -> None:
    hub.repositories["user/reviews"].gated = True


def _broken(hub: Hub) -> None:
    hub.broken = True


def _replaced(hub: Hub) -> None:
    hub.repositories["user/reviews"].commit({"adapter_model.bin": b"", "adapter_config.json": b"{}"})


def _damaged(hub: Hub) -> None:
    hub.repositories["user/reviews"].commit({"prompt.safetensors": b"not one"})


def _removed(hub: Hub) -> None:
    del hub.repositories["user/reviews"]


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (
            _removed,
            ValueError,
            r"neither a file here nor a repository of .* if it is private, log in with `hf auth login`",
        ),
        (_private, ValueError, r"neither a file here nor a repository of .*, or set HF_TOKEN"),
        (_gated, ValueError, r"gated; accept its terms at http://127.*/user/reviews, then log in"),
        (
            _replaced,
            ValueError,
            r"holds no prompt\.safetensors, which .* adapter of PEFT: prompttransfer import user/reviews",
        ),
        (_damaged, ValueError, r"not a readable safetensors file"),
        (_broken, ConnectionError, r"neither a file here nor in the hub's cache, and .* does not give it \(.*500"),
    ],
)
def test_what_a_reader_says(
    hub: Hub,
    prompt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Hub], None],
    kind: type[Exception],
    match: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_STATUS_CODES", (), raising=False)
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    change(hub)
    with pytest.raises(kind, match=rf"^user/reviews: .*{match}"):
        read_prompt("user/reviews")


def test_pickle_files_of_the_hub_are_not_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["user/old"] = Repository()
    hub.repositories["user/old"].commit({"adapter_config.json": b"{}", "adapter_model.bin": b"pickle"})
    with pytest.raises(
        ValueError, match=r"user/old: the repository holds no adapter_model\.safetensors; want an adapter"
    ):
        import_peft("user/old")
    assert not [request for request in hub.asked if request.endswith(".bin")]


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({"repository": "reviews"}, ValueError, r"repository: got 'reviews', want user/name"),
        ({"repository": "user/reviews@v1"}, ValueError, r"repository: got 'user/reviews@v1', want user/name"),
        (
            {"repository": "other/reviews"},
            ValueError,
            r"other/reviews: .* refuses the token \(403: .*repositories of other",
        ),
        ({"token": ""}, ValueError, r"not logged in to http://127.*; log in with `hf auth login`, or set HF_TOKEN"),
        ({"token": "hf_wrong"}, ValueError, r"refuses the token \(401: .* log in with `hf auth login`"),
        ({"base_model": "demo"}, ValueError, r"its model is 'demo', which others cannot load"),
        (
            {"licence": "beer"},
            ValueError,
            r"refuses the model card \(.*license.* must be one of .*apache-2\.0.*--licence",
        ),
        (
            {"repository": "user/public", "private": True},
            ValueError,
            r"user/public exists and is public, so nothing was",
        ),
    ],
)
def test_what_a_push_says(
    hub: Hub,
    prompt: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    kind: type[Exception],
    match: str,
) -> None:
    """Nothing is sent, and no folder is left."""
    hub.repositories["user/public"] = Repository()
    hub.repositories["user/public"].commit({"README.md": b""})
    monkeypatch.setenv("HF_TOKEN", options.pop("token", TOKEN))
    with pytest.raises(kind, match=match):
        push_prompt(prompt, options.pop("repository", "user/reviews"), tmp_path / "folder", **options)
    assert not [request for request in hub.asked if "/commit/" in request]
    assert not (tmp_path / "folder").exists() and not list(tmp_path.glob(".new-*"))


def test_private_repository(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    push_prompt(prompt, "user/secret", tmp_path / "folder", private=True)
    assert hub.repositories["user/secret"].private and read_prompt("user/secret")[0].equal(PROMPT)
    with pytest.raises(FileExistsError, match="folder exists; name a new folder"):
        push_prompt(prompt, "user/secret", tmp_path / "folder", private=True)


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(cli.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_commands(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    model, library = tmp_path / "model", tmp_path / "library"
    save_model(model)
    run("export", prompt, tmp_path / "plain")
    assert hub.asked == []
    pushed = json.loads(run("export", prompt, tmp_path / "folder", "--push", "user/reviews", "--json"))
    assert pushed == {
        "folder": str(tmp_path / "folder"),
        "url": f"{hub.url}/user/reviews",
        "revision": hub.repositories["user/reviews"].head,
    }
    asked = ("--model", model, "w1 w2")
    assert run("predict", "user/reviews", *asked, "--json") == run("predict", prompt, *asked, "--json")
    (tmp_path / "rows.csv").write_text("text,label\nw1 w2,no\nw3,yes\n", encoding="utf-8")
    for place in ("user/reviews", prompt):
        scored = json.loads(run("evaluate", place, tmp_path / "rows.csv", "--model", model, "--json"))
        assert (scored["test_rows"], scored["prompt_tokens"]) == (2, 5)
    assert run("library", "add", "user/reviews", "--library", library).startswith("1 prompts added")
    assert Library.open(library).entries["reviews"].card.score == 87.5
    (match,) = json.loads(run("similar", "user/reviews", "--library", library, "--json"))
    assert match["name"] == "reviews" and match["similarity"] == pytest.approx(1)
    run("import", "user/reviews", tmp_path / "again.safetensors")
    assert read_prompt(tmp_path / "again.safetensors")[0].equal(PROMPT)
    run("export", f"user/reviews@{pushed['revision']}", tmp_path / "from-hub")
    assert (tmp_path / "from-hub" / "adapter_config.json").is_file()


def test_commands_refuse(hub: Hub, prompt: Path, tmp_path: Path) -> None:
    assert "got it without --push" in run("export", prompt, tmp_path / "x", "--private", code=2)
    assert "got it without --push" in run("export", prompt, tmp_path / "x", "--licence", "mit", code=2)
    refused = run("export", prompt, prompt, tmp_path / "x", "--push", "user/reviews", code=2)
    assert "got 2 prompts, want one" in refused and hub.asked == []
    push_prompt(prompt, "user/reviews", tmp_path / "folder")
    write_prompt(tmp_path / "wide.safetensors", torch.ones(5, 24), CARD.metadata())
    push_prompt(tmp_path / "wide.safetensors", "user/wide", tmp_path / "wide")
    save_model(tmp_path / "model")
    message = run("predict", "user/wide", "--model", tmp_path / "model", "w1", code=2)
    assert "user/wide: got a prompt of width 24, the model wants 16" in message
    assert "user/none: neither a file here" in run("predict", "user/none", "w1", code=2)


@pytest.mark.slow
def test_variables_of_the_hub(prompt: Path, tmp_path: Path) -> None:
    """HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE, which huggingface_hub reads when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def command_line(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "prompttransfer", *map(str, arguments)]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=300)

    with running_hub() as hub:
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "pusher")}
        pushing = ("export", prompt, tmp_path / "folder", "--push", "user/reviews")
        assert "not logged in" in command_line(*pushing).stderr
        pushed = command_line(*pushing, HF_TOKEN=TOKEN)
        assert pushed.returncode == 0 and pushed.stderr == "", pushed
        reader = {"HF_HOME": str(tmp_path / "reader")}
        missing = command_line("export", "user/reviews", tmp_path / "1", HF_HUB_OFFLINE="1", **reader)
        assert missing.returncode == 1 and "and HF_HUB_OFFLINE is set" in missing.stderr
        read = command_line("export", "user/reviews", tmp_path / "2", **reader)
        assert read.returncode == 0 and read.stderr == "", read
    offline = command_line("export", "user/reviews", tmp_path / "3", HF_HUB_OFFLINE="1", **reader)
    assert offline.returncode == 0 and offline.stderr == "", offline
    assert (tmp_path / "3" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "folder" / "adapter_model.safetensors"
    ).read_bytes()
