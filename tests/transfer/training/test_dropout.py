"""Dropout of the frozen model in training: where it is on, its masks, and what it does not affect.

The oracle is a literal training loop in the model's training mode. Both sides apply the same dropout, because
`F.dropout` is replaced: in training mode it scales by its own factor instead of drawing a mask.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from recipes import context, random
from test_training import ROWS, Stop, plan, soft
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from prompttransfer import RunConfig
from prompttransfer.methods import METHODS
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone
from prompttransfer.prompts import SoftPrompt
from prompttransfer.tasks.task import Task
from prompttransfer.training.trainer import train


def backbone_of(model: PreTrainedModel, **options) -> Backbone:
    model.set_attn_implementation("eager")  # a fused attention drops inside
    return Backbone(model, tiny_tokenizer(), precision="float32", max_length=16, **options)


def t5(**options) -> Backbone:
    return backbone_of(tiny_t5(), **options)


def gpt2(**options) -> Backbone:
    torch.manual_seed(0)
    sizes = {"vocab_size": len(VOCABULARY), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    return backbone_of(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=2, eos_token_id=2)), **options)


MODELS = {"t5": t5, "gpt2": gpt2}


@pytest.fixture(params=sorted(MODELS))
def dropped(request: pytest.FixtureRequest) -> Backbone:
    return MODELS[request.param]()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """(in training mode, with gradients) of every call; in training mode the input is scaled by 1 - p."""
    recorded: list[tuple[bool, bool]] = []

    def scale(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        recorded.append((training, torch.is_grad_enabled()))
        return x * (1 - p) if training else x

    monkeypatch.setattr(F, "dropout", scale)
    return recorded


def literal_training(backbone: Backbone, prompt: SoftPrompt, updates: int) -> None:
    """AdamW on rows that are read one by one in the model's training mode, without any of the package's code."""
    model, embed = backbone.model, backbone.embedding
    optimizer = torch.optim.AdamW(prompt.parameters(), lr=0.05, weight_decay=1e-5)
    model.train()
    for update, batch in enumerate(row_batches(len(ROWS), 4, updates, seed=1)):
        optimizer.param_groups[0]["lr"] = 0.05 * (updates - update) / updates
        losses = []
        for index in batch:
            text = torch.cat([prompt.prompt, embed(torch.tensor(ROWS[index].ids))])[None]
            more = {"decoder_input_ids": torch.tensor([[0]])} if backbone.seq2seq else {}
            logits = model(inputs_embeds=text, **more).logits[0, -1]
            losses.append(F.cross_entropy(logits, torch.tensor(ROWS[index].answer[0])))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
        optimizer.step()
    model.eval()


def test_training_with_dropout_is_training_of_the_model_in_training_mode(
    dropped: Backbone, tmp_path: Path, calls: list[tuple[bool, bool]]
) -> None:
    prompt, expected, plain = soft(dropped), soft(dropped), soft(dropped)
    train(dropped, plan(prompt, dropout=5), tmp_path / "model")
    assert (True, True) in calls and not dropped.model.training
    literal_training(dropped, expected, 8)
    torch.testing.assert_close(prompt.prompt, expected.prompt, rtol=1e-4, atol=1e-5)
    calls.clear()
    train(dropped, plan(plain), tmp_path / "off")
    assert all(training is False for training, _ in calls)
    assert not torch.allclose(plain.prompt, expected.prompt, atol=1e-3)


def test_masks_follow_from_the_seed_and_the_update(dropped: Backbone, tmp_path: Path) -> None:
    prompts = {}
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        prompt = soft(dropped)
        torch.manual_seed(len(prompts))  # what else is random has no part in them
        train(dropped, plan(prompt, dropout=seed), tmp_path / name)
        prompts[name] = prompt.prompt.detach()
    assert torch.equal(prompts["first"], prompts["again"])
    assert not torch.allclose(prompts["first"], prompts["other"])


def test_a_resumed_run_draws_the_same_masks(dropped: Backbone, tmp_path: Path) -> None:
    whole, first, again = soft(dropped), soft(dropped), soft(dropped)
    train(dropped, plan(whole, dropout=1), tmp_path / "whole", checkpoint_updates=3)
    seen = 0

    def stop(_: int, **__: float) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise Stop

    with pytest.raises(Stop):
        train(dropped, plan(first, dropout=1), tmp_path / "cut", checkpoint_updates=3, advance=stop)
    train(dropped, plan(again, dropout=1), tmp_path / "cut", checkpoint_updates=3)
    assert torch.equal(again.prompt, whole.prompt)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_layers_that_are_computed_again_drop_the_same(make, tmp_path: Path) -> None:
    kept, again = make(), make(checkpointing=True)
    first, second = soft(kept), soft(again)
    train(kept, plan(first, dropout=1), tmp_path / "kept")
    train(again, plan(second, dropout=1), tmp_path / "again")
    torch.testing.assert_close(first.prompt, second.prompt, rtol=1e-4, atol=1e-5)


def test_the_state_of_other_random_numbers_stays(dropped: Backbone) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with dropped.dropping(1, 2):
        assert dropped.model.training
        torch.rand(7)
    assert not dropped.model.training and torch.equal(torch.rand(4), expected)


def test_every_row_drops_its_own_part_of_a_shared_prompt() -> None:
    """A prompt that is read once would have one mask for all rows."""
    model = gpt2()
    prompt = SoftPrompt(random(3, 16))
    assert model.read(prompt, rows=4) is not None
    with model.dropping(1):
        assert model.read(prompt, rows=4) is None
        logits = model(prompt, model.collate([[10, 11]] * 4)).logits
    assert len({tuple(row) for row in logits.tolist()}) == 4


@pytest.mark.parametrize("method", ["MPT", "BMTPT", "DTVG"])
def test_teachers_and_scores_have_none(
    tasks: dict[str, Task], tmp_path: Path, calls: list[tuple[bool, bool]], method: str
) -> None:
    ctx, target = context(t5(), tasks, tmp_path, dropout="model", mpt={"teacher_cache": "never"})
    result = METHODS[method].run(ctx, target)
    ctx.evaluate("test", target, result.evaluated)
    assert {(True, True), (False, False)} <= set(calls)
    # All training uses dropout, and forward passes without gradients do not.
    assert (True, False) not in calls and (False, True) not in calls


def test_a_stage_with_dropout_is_another_one(tasks: dict[str, Task], tmp_path: Path) -> None:
    def stages(backbone: Backbone, folder: str, **settings: str) -> set[str]:
        ctx, target = context(backbone, tasks, tmp_path / folder, **settings)
        METHODS["PT"].run(ctx, target)
        return {path.name for path in (tmp_path / folder / "done").iterdir()}

    off, on = stages(t5(), "off"), stages(t5(), "on", dropout="model")
    assert len(off) == len(on) == 1 and not off & on
    llama = backbone_of(tiny_llama())
    assert not llama.has_dropout and gpt2().has_dropout
    assert stages(llama, "llama") == stages(llama, "llama on", dropout="model")
    assert RunConfig().dropout == "off"
