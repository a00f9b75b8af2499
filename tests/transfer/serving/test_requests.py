"""Requests to an engine: they hold what `Predictor` gives its model to read, and lead to its answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import PlainEngine
from tiny import bpe_tokenizer, byte_tokenizer, tiny_llama, tiny_t5, tiny_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from prompttransfer import Predictor, cli
from prompttransfer.interchange import Card, write_prompt, write_tensors
from prompttransfer.prompts import InstancePrompt
from prompttransfer.serving import requests as serving
from prompttransfer.serving import vllm
from prompttransfer.serving.requests import ServedPrompt, answer

WORDS = {"template": "{text} Answer:", "choices": ("no", "yes")}
REVIEW = {"template": "Review: {text}\nLabel:", "choices": ("true", "false", "no")}
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
FILM = ["the film was good", "bad", "a very very good film, the best of all films that were ever made"]

CASES: dict[str, tuple[PreTrainedTokenizerFast, dict[str, Any], list[str]]] = {
    "words": (tiny_tokenizer(), WORDS, TEXTS),
    "a cue, and the end of long texts cut": (
        tiny_tokenizer(),
        WORDS | {"cue": " w8", "max_length": 4, "cut": "end", "template": "{text}"},
        TEXTS,
    ),
    "answers of several tokens": (
        tiny_tokenizer(),
        WORDS | {"choices": ("yes w1", "yes w2", "no"), "scoring": "full"},
        TEXTS,
    ),
    "many answers that start alike": (
        byte_tokenizer(),
        {"template": "{text}", "choices": tuple(f"{a}{b}" for a in "abcdefghijklm" for b in "nopqrstuvwxy")},
        FILM,
    ),
    "a number after a space of its own": (
        byte_tokenizer(),
        {"template": "{text}\nStars:", "choices": ("1", "2", "3"), "join": "space"},
        FILM,
    ),
    "join none": (bpe_tokenizer(), REVIEW | {"join": "none"}, FILM),
    "join space, a start token": (bpe_tokenizer(("<s>",)), REVIEW | {"join": "space"}, FILM),
    "join separate, a start token": (bpe_tokenizer(("<s>",)), REVIEW | {"join": "separate"}, FILM),
    "no join, start and end tokens": (bpe_tokenizer(("<s>",), ("</s>",)), REVIEW, FILM),
    "a space before every text": (
        bpe_tokenizer(("<s>",), space_before_texts=True),
        REVIEW | {"join": "space", "scoring": "full"},
        FILM,
    ),
    "free text": (tiny_tokenizer(), WORDS | {"choices": (), "scoring": "generate", "max_answer": 6}, TEXTS),
    "choices that are written": (tiny_tokenizer(), WORDS | {"scoring": "generate"}, TEXTS),
}


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stored(path: Path, model: Path, seed: int = 0, **card: Any) -> Path:
    prompt = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    card = {"model": str(model), "max_length": 24, "precision": "float32"} | card
    write_prompt(path, prompt, Card(**card).metadata())
    return path


def engine_of(model: Path) -> PlainEngine:
    return PlainEngine(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32))


def read_by(predictor: Predictor, row: str) -> tuple[Any, Tensor]:
    """The prediction for a row, and the embeddings that the model read first: prompt, text, parts of answers."""
    seen: list[Tensor] = []
    backbone = predictor.backbone
    backbone.__dict__ |= {"reads_prompts_once": False, "packs_rows": False}  # so that a row is read at once
    hook = backbone.model.register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs.get("inputs_embeds")), with_kwargs=True
    )
    (prediction,) = predictor([row])
    hook.remove()
    return prediction, seen[0][0]


def assert_same(got: list[Any], want: list[Any]) -> None:
    assert [one.label for one in got] == [one.label for one in want]
    for one, other in zip(got, want, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_engine_reads_what_the_model_reads(case: str, tmp_path: Path) -> None:
    tokenizer, card, rows = CASES[case]
    model = saved(tmp_path / "model", tokenizer)
    file = stored(tmp_path / "p.safetensors", model, **card)
    engine, served = engine_of(model), ServedPrompt.open(file)
    (got,) = answer(engine, [(served, rows)])
    predictor = Predictor.open(file)
    want, seen = zip(*[read_by(predictor, row) for row in rows], strict=True)
    assert_same(got, list(want))
    asked = [request.prompt for request in engine.asked]
    assert max(map(len, asked)) + engine.asked[0].max_tokens <= served.positions
    for read, prompt in zip(seen, asked[:: len(asked) // len(rows)], strict=True):  # the first of each row
        assert torch.equal(prompt, read[: len(prompt)])
        assert len(read) == len(prompt) or len(asked) > len(rows)  # else no part of an answer is among it
    if got[0].scores:
        assert all(request.max_tokens == 1 and 0 < len(request.scored) <= 128 for request in engine.asked)


def test_more_tokens_than_are_scored_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "SCORED_AT_ONCE", 3)
    model = saved(tmp_path / "model", tiny_tokenizer())
    file = stored(tmp_path / "p.safetensors", model, **WORDS | {"choices": tuple(f"w{n}" for n in range(8))})
    engine = engine_of(model)
    (got,) = answer(engine, [(ServedPrompt.open(file), TEXTS)])
    assert_same(got, Predictor.open(file)(TEXTS))
    assert [len(request.scored) for request in engine.asked] == [3, 3, 2] * len(TEXTS)


def test_a_prompt_that_depends_on_the_row(tmp_path: Path) -> None:
    """ATTEMPT's prompt depends only on the text, even if parts of answers follow it."""
    model = saved(tmp_path / "model", tiny_tokenizer())
    generator = torch.Generator().manual_seed(0)
    sources, target = torch.randn(2, 3, 16, generator=generator), torch.randn(3, 16, generator=generator)
    prompt = InstancePrompt(sources, target, projection=4, temperature=0.1)
    card = Card(model=str(model), scoring="full", **WORDS | {"choices": ("yes w1", "yes w2", "no")})
    file = tmp_path / "p.safetensors"
    write_tensors(file, prompt.tensors(), card.metadata())
    (got,) = answer(engine_of(model), [(ServedPrompt.open(file, precision="float32"), TEXTS)])
    assert_same(got, Predictor.open(file, precision="float32", batch_size=1)(TEXTS))


def test_many_tasks_share_a_batch(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tiny_tokenizer())
    free = {"choices": (), "scoring": "generate", "max_answer": 3}
    cards = [WORDS, WORDS | {"choices": ("w1", "w2", "w3")}, WORDS | free]
    files = [stored(tmp_path / f"{seed}.safetensors", model, seed, **card) for seed, card in enumerate(cards)]
    engine = engine_of(model)
    answers = answer(engine, [(ServedPrompt.open(file), TEXTS) for file in files])
    assert len(engine.calls) == 2 and len(engine.calls[1]) == 3 * len(TEXTS)  # the first compares the models, once
    answer(engine, [(ServedPrompt.open(files[0]), TEXTS)])
    assert len(engine.calls) == 3
    for got, file in zip(answers, files, strict=True):
        assert_same(got, Predictor.open(file)(TEXTS))


def test_an_engine_with_another_model_is_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", tiny_tokenizer())
    served = ServedPrompt.open(stored(tmp_path / "p.safetensors", model, **WORDS))
    torch.manual_seed(1)
    other = tiny_llama()
    other.get_input_embeddings().weight.data.normal_()
    with pytest.raises(ValueError, match="want an engine with that model"):
        answer(PlainEngine(other), [(served, TEXTS)])


def test_what_cannot_be_served_is_refused(tmp_path: Path) -> None:
    tiny_t5().save_pretrained(tmp_path / "t5")
    tiny_tokenizer().save_pretrained(tmp_path / "t5")
    file = stored(tmp_path / "p.safetensors", tmp_path / "t5", **WORDS)
    with pytest.raises(ValueError, match=r"is an encoder-decoder"):
        ServedPrompt.open(file)
    file = stored(tmp_path / "q.safetensors", saved(tmp_path / "bytes", byte_tokenizer()), **WORDS)
    with pytest.raises(ValueError, match="a row without text"):
        ServedPrompt.open(file).encoded([{"other": "a"}])
    wide = tmp_path / "wide.safetensors"
    write_prompt(wide, torch.ones(3, 20), Card(model=str(tmp_path / "bytes"), **WORDS).metadata())
    with pytest.raises(ValueError, match="a prompt of width 20, the model wants 16"):
        ServedPrompt.open(wide)
    with pytest.raises(ValueError, match="--model NAME names it where it is now"):
        ServedPrompt.open(stored(tmp_path / "r.safetensors", tmp_path / "gone", **WORDS))
    two = [ServedPrompt.open(stored(tmp_path / f"{n}.safetensors", tmp_path / "bytes", **WORDS)) for n in "st"]
    object.__setattr__(two[0].embeddings, "name", "another")
    with pytest.raises(ValueError, match="an engine runs one model, got prompts of another, "):
        vllm.VllmEngine.start(*two)


def test_predict_with_another_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = saved(tmp_path / "model", tiny_tokenizer())
    file = stored(tmp_path / "p.safetensors", model, **WORDS)
    monkeypatch.setattr(vllm.VllmEngine, "start", lambda *prompts: engine_of(model))

    def lines(*options: str) -> list[dict[str, Any]]:
        result = CliRunner().invoke(cli.app, ["predict", str(file), *TEXTS, "--json", *options])
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    for got, want in zip(lines("--engine", "vllm"), lines(), strict=True):
        assert (got["text"], got["label"]) == (want["text"], want["label"])
        assert got["scores"] == pytest.approx(want["scores"], abs=1e-5)
    bad = CliRunner().invoke(cli.app, ["predict", str(file), "w1", "--engine", "llama.cpp"])
    assert bad.exit_code == 2
    assert bad.stderr == "error: --engine: got 'llama.cpp', want transformers, vllm, or the URL of a server\n"


def test_a_machine_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = stored(tmp_path / "p.safetensors", saved(tmp_path / "model", tiny_tokenizer()), **WORDS)
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    bad = CliRunner().invoke(cli.app, ["predict", str(file), "w1", "-q", "--engine", "vllm"])
    assert bad.exit_code == 1 and "vLLM is not installed here, or only partly (vllm): pip install vllm" in bad.stderr


def test_the_ten_lines_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "serving.md").read_text("utf-8")
    (lines,) = re.findall(r"in ten lines.*?```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(lines.split("\n")) - lines.count("\n\n") - 1 == 10
    model = saved(tmp_path / "model", bpe_tokenizer(("<s>",)))
    card = {"template": "{text}\nLabel:", "scoring": "generate", "max_answer": 2, "join": "space", "max_length": 60}
    file = stored(tmp_path / "p.safetensors", model, **card)
    exec(lines.replace("path/to/model", str(model)).replace("reviews.safetensors", str(file)), {})
    (wanted,) = Predictor.open(file)(["Great sound, would buy again."])
    assert wanted.label and capsys.readouterr().out.strip() == wanted.label
