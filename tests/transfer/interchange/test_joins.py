"""Prompts that go to PEFT and back keep their answers: how an answer joins its text goes with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import bpe_tokenizer, tiny_llama
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from prompttransfer import cli
from prompttransfer.interchange import Card, export_files, read_card, write_prompt
from prompttransfer.serving.predict import Predictor

CHOICES = ("yes", "no", "true")
TEXTS = ["good film", "the film was very bad"]


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(params=[(), ("<s>",)], ids=["bare", "with a start token"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return bpe_tokenizer(request.param)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Path:
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def adapter(model: Path, tmp_path: Path) -> Path:
    """Made by PEFT, which writes no card."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    wrapped = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    torch.nn.init.normal_(wrapped.prompt_encoder["default"].embedding.weight)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@torch.no_grad()
def in_peft(model: Path, adapter: Path, texts: list[str], answers: list[list[int]]) -> list[list[float]]:
    """Probabilities of answers (token ids) after texts, tokenized separately as in PEFT's examples. The last tokens
    distinguish the answers."""
    from peft import PeftModel

    tokenizer = AutoTokenizer.from_pretrained(model)
    wrapped = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), adapter).eval()
    shares = []
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], *answers[0][:-1]]
        logits = wrapped(input_ids=torch.tensor([ids])).logits[0, -1]
        shares.append(logits[[answer[-1] for answer in answers]].softmax(0).tolist())
    return shares


def here(prompt: Path, **options: Any) -> list[list[float]]:
    predictor = Predictor.open(prompt, precision="float32", **options)
    return [list(answer.scores.values()) for answer in predictor(TEXTS)]


# Template, option, and the answer as read by PEFT: whether it has special tokens before it, and its text.
READINGS = [
    ("Review: {text} Label : ", None, False, "{}"),
    ("Review: {text}\\nLabel :\\n", None, False, "{}"),
    ("Review: {text} Label :", None, False, " {}"),
    ("Review: {text} Label :", "none", False, "{}"),
    ("Review: {text} Label : ", "separate", True, "{}"),
    ("Review: {text}\\nLabel :\\n", "space", False, " {}"),
]


@pytest.mark.parametrize(("template", "join", "special", "answer"), READINGS)
def test_an_adapter_gives_here_what_it_gives_in_peft(
    adapter: Path,
    model: Path,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    template: str,
    join: str | None,
    special: bool,
    answer: str,
) -> None:
    worded = [template.replace("\\n", "\n").format(text=text) for text in TEXTS]
    ids = [tokenizer(answer.format(choice), add_special_tokens=special)["input_ids"] for choice in CHOICES]
    want = [pytest.approx(row, abs=1e-4) for row in in_peft(model, adapter, worded, ids)]
    options = ["--template", template, "--choices", ",".join(CHOICES), *(["--join", join] if join else [])]
    shown = run("import", adapter, tmp_path / "p.safetensors", *options)
    assert "answers follow the text" in shown.stdout
    assert here(tmp_path / "p.safetensors") == want
    # And back: PEFT reads what was exported, and a second import needs no word about it.
    run("export", tmp_path / "p.safetensors", tmp_path / "again", "-q")
    assert in_peft(model, tmp_path / "again", worded, ids) == want
    run("import", tmp_path / "again", tmp_path / "q.safetensors")
    assert here(tmp_path / "q.safetensors") == want
    assert read_card(tmp_path / "q.safetensors").join == read_card(tmp_path / "p.safetensors").join


def test_predict_reads_an_adapter_without_a_card_to_the_letter(
    adapter: Path, model: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    run("import", adapter, tmp_path / "p.safetensors")
    ids = [tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in CHOICES]
    want = in_peft(model, adapter, [f"{text} Label : " for text in TEXTS], ids)
    overrides = {"template": "{text} Label : ", "choices": CHOICES}
    assert here(tmp_path / "p.safetensors", **overrides) == [pytest.approx(row, abs=1e-4) for row in want]
    ids = [tokenizer(f" {choice}", add_special_tokens=False)["input_ids"] for choice in CHOICES]
    want = in_peft(model, adapter, [f"{text} Label :" for text in TEXTS], ids)
    spaced = here(tmp_path / "p.safetensors", join="space", **overrides)
    assert spaced == [pytest.approx(row, abs=1e-4) for row in want]
    options = ["--template", "{text}:", "--choices", "yes,no", "--join"]
    for join, code in (("space", 0), ("blank", 2)):
        result = CliRunner().invoke(cli.app, ["predict", str(tmp_path / "p.safetensors"), "good", *options, join])
        assert result.exit_code == code and ("'space', 'none' or 'separate'" in result.stderr) == (join == "blank")


def test_a_prompt_file_of_before_keeps_its_answers(
    model: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The card has no join: the model read the template's space, and another one with the answer."""
    prompt = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    card = Card(model=str(model), architecture="causal", template="{text} Label : ", choices=CHOICES)
    write_prompt(tmp_path / "p.safetensors", prompt, card.metadata())
    export_files([tmp_path / "p.safetensors"], tmp_path / "a")
    pytest.importorskip("peft")
    ids = [tokenizer(f" {choice}", add_special_tokens=False)["input_ids"] for choice in CHOICES]
    want = in_peft(model, tmp_path / "a", [f"{text} Label : " for text in TEXTS], ids)
    assert here(tmp_path / "p.safetensors") == [pytest.approx(row, abs=1e-4) for row in want]
    run("import", tmp_path / "a", tmp_path / "q.safetensors")
    assert here(tmp_path / "q.safetensors") == here(tmp_path / "p.safetensors")


def test_what_is_trained_here_is_read_in_the_same_way_again(model: Path, tmp_path: Path) -> None:
    """By `predict` from the card, and by `evaluate`, regardless of the end of the task's own template."""
    for split, words in (("rows", "abcdefghij"), ("test", "klmnopqrst")):
        rows = "".join(f"the film {word} was {('good', 'bad')[n % 2]},{n % 2}\n" for n, word in enumerate(words))
        (tmp_path / f"{split}.csv").write_text("text,label\n" + rows)
    scored = {}
    for name, ending, card in (("space", " ", "{text} Label :"), ("line", "\\n", "{text} Label :\n")):
        (tmp_path / f"{name}.yaml").write_text(
            f'train: rows.csv\ntest: test.csv\ntemplate: "{{text}} Label :{ending}"\nchoices: [yes, no]\n'
        )
        prompt = tmp_path / f"{name}.safetensors"
        options = ["--model", model, "--updates", 3, "--prompt-length", 3, "--precision", "float32", "-q"]
        run("train", tmp_path / f"{name}.yaml", prompt, *options, "--set", f"cache={tmp_path / 'cache'}")
        assert (read_card(prompt).template, read_card(prompt).join) == (card, "space" if name == "space" else "none")
        facts = json.loads(run("evaluate", prompt, tmp_path / f"{name}.yaml", "--json").stdout)
        lines = run("predict", prompt, "--file", tmp_path / "test.csv", "--json").stdout.splitlines()
        right = [json.loads(line)["label"] == ("yes", "no")[n % 2] for n, line in enumerate(lines)]
        scored[name] = (facts["score"], pytest.approx(100 * sum(right) / len(right)))
    assert all(score == want for score, want in scored.values())


def test_evaluate_reads_answers_as_the_prompt_has_learnt_them(
    model: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "test.csv").write_text("text,label\ngood film,yes\nbad film,no\n")
    (tmp_path / "t.yaml").write_text('test: test.csv\ntemplate: "{text} Label : "\nchoices: [yes, no]\n')
    seen = []
    monkeypatch.setattr("prompttransfer.serving.evaluate.warn_unknown", lambda task, progress: seen.append(task))
    for join, text, answer in (
        ("none", "good film Label : ", "yes"),
        ("space", "good film Label :", " yes"),
        (None, "good film Label : ", " yes"),  # a file of before
    ):
        card = Card(model=str(model), template="{text}", choices=("yes", "no"), join=join)
        write_prompt(tmp_path / "p.safetensors", torch.ones(3, 16), card.metadata())
        run("evaluate", tmp_path / "p.safetensors", tmp_path / "t.yaml", "--scoring", "full", "-q")
        bare = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert [*seen[-1].test[seen[-1].labels.index(0)], *seen[-1].answers[0][:-1]] == [
            *tokenizer(text)["input_ids"],
            *bare,
        ]
