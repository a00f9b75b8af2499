"""The baselines: SPoT, task prompt vectors, ATTEMPT, multi-task prompt tuning."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from literal import literal_answer_logits
from recipes import context, random
from safetensors.torch import load_file
from torch import Tensor

from prompttransfer import RunConfig
from prompttransfer.interchange import read_prompt, write_tensors
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.shared import source_prompts
from prompttransfer.methods.spot import nearest_weights
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.prompts import FrozenPrompts, InstancePrompt
from prompttransfer.tasks.task import Task

# ATTEMPT's prompt


def instance_prompt(width: int = 6, **settings) -> InstancePrompt:
    prompt = InstancePrompt(random(3, 4, width), random(4, width, seed=1), projection=5, **settings)
    with torch.no_grad():  # away from the start of LayerNorm, so that its weights count
        prompt.norm.weight.copy_(random(width, seed=2))
        prompt.norm.bias.copy_(random(width, seed=3))
    return prompt


def literal(prompt: InstancePrompt, text: Tensor, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Attention (K+1,) and prompt (L, H) for one row of embeddings (S, H) without padding, in float64 loops."""
    own, down, up = (tensor.detach().double().numpy() for tensor in (prompt.target, prompt.down, prompt.up))
    weight, bias = (tensor.detach().double().numpy() for tensor in prompt.norm.parameters())
    bank = [*prompt.sources.double().numpy(), own]
    low = down @ text.double().numpy().max(axis=0)
    hidden = up @ (low / (1 + np.exp(-low)))
    hidden = (hidden - hidden.mean()) / np.sqrt(hidden.var() + 1e-5) * weight + bias
    odds = np.exp([each.max(axis=0) @ hidden / temperature for each in bank])
    attention = odds / odds.sum()
    return attention, own + sum(a * each for a, each in zip(attention, bank, strict=True))


@pytest.mark.parametrize(("width", "count"), [(768, 231_936), (512, 51_200 + 102_400 + 1_024)])
def test_attempt_trains_as_many_values_as_published(width: int, count: int) -> None:
    prompt = InstancePrompt(torch.zeros(6, 100, width), torch.zeros(100, width))
    assert prompt.trainable_parameters() == count
    assert prompt.temperature.item() == pytest.approx(math.e * width)
    frozen = InstancePrompt(torch.zeros(6, 100, width), torch.zeros(100, width), train_norm=False)
    assert frozen.trainable_parameters() == count - 2 * width  # 230,400 at T5-base, as the code trains
    assert sum(p.numel() for g in frozen.parameter_groups(0.3) for p in g["params"]) == count - 2 * width


def test_every_row_gets_the_mixture_of_the_formula() -> None:
    prompt, text = instance_prompt(temperature=2.0), random(2, 7, 6, seed=4)
    got, attention = prompt.of_rows(text), prompt.attention(text)
    for row in range(2):
        weights, mixed = literal(prompt, text[row], 2.0)
        np.testing.assert_allclose(attention[row].detach(), weights, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got[row].detach(), mixed, rtol=1e-4, atol=1e-5)
    both = prompt.prepend(text.bfloat16())
    assert both.dtype == torch.bfloat16 and both.shape == (2, 11, 6)
    assert torch.equal(both[:, 4:], text.bfloat16())


@pytest.mark.parametrize("left", [True, False])
def test_padding_takes_no_part_unless_asked_for(left: bool) -> None:
    text, padding = random(1, 3, 6, seed=4), torch.full((1, 2, 6), 9.0)
    padded = torch.cat([padding, text] if left else [text, padding], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0]])
    prompt, published = instance_prompt(), instance_prompt(mask_padding=False)
    assert torch.equal(prompt.of_rows(padded, mask), prompt.of_rows(text))
    assert torch.equal(published.of_rows(padded, mask), prompt.of_rows(padded))
    assert not torch.allclose(prompt.of_rows(padded), prompt.of_rows(text))


def test_attempt_trains_the_target_and_the_attention_but_not_the_sources() -> None:
    prompt = instance_prompt(temperature=1.0)
    prompt.prepend(random(2, 7, 6, seed=4)).square().sum().backward()
    trained = {name for name, parameter in prompt.named_parameters() if parameter.grad.abs().sum() > 0}
    assert trained == {"target", "down", "up", "norm.weight", "norm.bias"}
    assert [group["lr"] for group in prompt.parameter_groups(0.3, 0.1)] == [0.3, 0.1]
    assert sum(p.numel() for g in prompt.parameter_groups(0.3) for p in g["params"]) == prompt.trainable_parameters()


def test_a_prompt_that_depends_on_the_row_has_no_finished_matrix() -> None:
    with pytest.raises(TypeError, match="depends on the row"):
        instance_prompt().composed()


def test_attempt_is_evaluated_row_by_row(backbone: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(
        backbone, tasks, tmp_path, learning_rate=0.5, target_learning_rate=0.05, attempt={"temperature": 3.0}
    )
    result = METHODS["ATTEMPT"].run(ctx, target)
    prompt = result.module
    evaluation = ctx.evaluate("test", target, result.evaluated)
    expected, prompts = [], []
    for row in target.test:
        embeds = backbone.embedding(torch.tensor([row])).detach()
        prompts.append(literal(prompt, embeds[0], 3.0)[1])
        frozen = FrozenPrompts(torch.tensor(np.array([prompts[-1]]), dtype=torch.float32))
        logits = backbone(frozen, backbone.collate([row])).logits[0, list(target.answers)]
        expected.append(int(logits.argmax()))
    assert evaluation.predictions == expected
    assert np.std(prompts, axis=0).max() > 1e-3  # the rows differ
    trained_on = [backbone.embedding(torch.tensor(row.ids)).detach() for row in target.train]
    mean = np.mean([literal(prompt, text, 3.0)[1] for text in trained_on], axis=0)
    np.testing.assert_allclose(result.prompt, mean, rtol=1e-3, atol=1e-4)
    attention = result.history["attention"]
    assert list(attention) == ["red", "green", "blue", "goal"]
    assert sum(attention.values()) == pytest.approx(1, abs=1e-5)


def test_attempt_sees_the_text_and_never_the_answer(backbone: Backbone) -> None:
    """In training, for any length of answers, and when answers are scored with the text read again for each."""
    torch.manual_seed(0)
    prompt = instance_prompt(backbone.hidden_size, temperature=0.3)
    texts, answers = [(10, 11, 12, 13), (15, 16), (17,)], [(44, 45, 2), (30, 2), (46, 2)]
    got = backbone(prompt, backbone.collate(texts, answers)).logits
    expected = []
    for text, answer in zip(texts, answers, strict=True):
        own = literal(prompt, backbone.embedding(torch.tensor(text)).detach(), 0.3)[1]
        frozen = FrozenPrompts(torch.tensor(own, dtype=torch.float32)[None])
        expected.append(literal_answer_logits(backbone, frozen, text, answer))
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-3, atol=1e-4)
    shared = Reader(backbone, prompt).answer_scores(texts, answers)
    backbone.__dict__["reads_prompts_once"] = False
    try:
        torch.testing.assert_close(Reader(backbone, prompt).answer_scores(texts, answers), shared)
    finally:
        del backbone.__dict__["reads_prompts_once"]


def test_attempt_is_kept_whole_beside_its_mean_prompt(tmp_path: Path) -> None:
    prompt, text = instance_prompt(temperature=2.0, mask_padding=False), random(2, 7, 6, seed=4)
    write_tensors(tmp_path / "module.safetensors", prompt.tensors(), {"task": "goal"})
    again = InstancePrompt.of(load_file(tmp_path / "module.safetensors"))
    assert torch.equal(again.of_rows(text, torch.zeros(2, 7)), prompt.of_rows(text))
    with pytest.raises(ValueError, match="want a tensor 'prompt'"):
        read_prompt(tmp_path / "module.safetensors")


def test_modules_that_differ_in_a_setting_are_scored_apart(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ctx, target = context(llama, tasks, tmp_path)
    for settings in ({}, {"temperature": 0.5}, {"mask_padding": False}, {}):
        ctx.evaluate("test", target, instance_prompt(16, **settings))
    assert len(list((tmp_path / "done").iterdir())) == 3


def test_attempt_follows_paper_or_code(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    assert RunConfig().attempt.mask_padding
    code = RunConfig(attempt={"variant": "code"}).attempt
    assert not code.mask_padding and not code.train_norm and RunConfig().attempt.train_norm
    assert RunConfig(attempt={"variant": "code", "mask_padding": True}).attempt.mask_padding
    starts = {}
    for start in ("first_source", "p_init"):
        ctx, target = context(llama, tasks, tmp_path, target_learning_rate=1e-9, attempt={"start": start})
        starts[start] = METHODS["ATTEMPT"].run(ctx, target).other_prompts["own"]
    torch.testing.assert_close(starts["first_source"], source_prompts(ctx)[0])
    torch.testing.assert_close(starts["p_init"], ctx.start)


def test_one_variant_for_all_methods_unless_a_block_says_otherwise() -> None:
    config = RunConfig(variant="code", mpt={"variant": "paper"}, attempt={"temperature": 2.0})
    assert (config.attempt.variant, config.mpt.variant, config.dtvg.variant) == ("code", "paper", "code")
    assert not config.attempt.mask_padding and config.attempt.temperature == 2.0
    assert RunConfig(variant="paper").dtvg.rule == RunConfig(transfer_from="all", dtvg={"variant": "paper"}).dtvg.rule
    assert RunConfig(**config.model_dump()) == config
    with pytest.raises(ValueError, match="variant"):
        RunConfig(variant="both")


# task prompt vectors


def test_task_vectors_add_up(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, tpv={"scale": 0.5, "tune": False, "combine": "all"})
    result = METHODS["TPV"].run(ctx, target)
    start = ctx.start.double().numpy()
    expected = start + 0.5 * sum(prompt.double().numpy() - start for prompt in source_prompts(ctx))
    np.testing.assert_allclose(result.prompt, expected, rtol=1e-5, atol=1e-6)
    assert (result.target_updates, result.target_examples, result.trainable_parameters) == (0, 0, 0)
    assert result.history["loss"] == []


def test_no_task_vectors_are_prompt_tuning(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, tpv={"scale": 0.0})
    plain, tpv = METHODS["PT"].run(ctx, target), METHODS["TPV"].run(ctx, target)
    torch.testing.assert_close(tpv.prompt, plain.prompt)
    assert tpv.trainable_parameters == plain.trainable_parameters == 3 * 16
    summed, target = context(llama, tasks, tmp_path)
    assert not torch.allclose(METHODS["TPV"].run(summed, target).prompt, plain.prompt)


@pytest.mark.parametrize(("combine", "top"), [("pair", 2), ("top", 1), ("top", 2), ("top", 9), ("all", 2)])
def test_vectors_are_chosen_by_the_loss_of_their_sum_on_training_rows(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path, combine: str, top: int
) -> None:
    settings = {"combine": combine, "top": top, "scale": 0.7, "tune": False}
    ctx, target = context(backbone, tasks, tmp_path, learning_rate=0.5, tpv=settings)
    result = METHODS["TPV"].run(ctx, target)
    vectors = [prompt - ctx.start for prompt in source_prompts(ctx)]

    def summed(group: tuple[int, ...]) -> Tensor:
        return ctx.start + 0.7 * sum(vectors[index] for index in group)

    def loss(group: tuple[int, ...]) -> float:
        prompt = FrozenPrompts(summed(group)[None])
        losses = []
        for row in target.train:
            logits = literal_answer_logits(backbone, prompt, row.ids, row.answer)
            losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum").item())
        return float(np.mean(losses))

    pairs, singles = [(0, 1), (0, 2), (1, 2)], [(0,), (1,), (2,)]
    if combine == "pair":
        group = min(pairs, key=loss)
    elif combine == "top":
        group = tuple(sorted(index for (index,) in sorted(singles, key=loss)[:top]))
    else:
        group = (0, 1, 2)
    torch.testing.assert_close(result.prompt, summed(group), rtol=1e-5, atol=1e-5)
    assert result.notes == f"from {' + '.join(ctx.sources[index].name for index in group)}; not trained"


def test_a_single_source_makes_no_pair(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, sources=("red",), tpv={"tune": False})
    torch.testing.assert_close(METHODS["TPV"].run(ctx, target).prompt, source_prompts(ctx)[0])


# SPoT, multi-task prompt tuning


def test_spot_goes_on_from_the_source_most_similar_to_the_targets_own_prompt(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, target = context(llama, tasks, tmp_path, learning_rate=0.5)
    starts, original = [], Context.run

    def spy(self: Context, title: str, plan, settings=None, **named):
        starts.append(plan.prompt.composed())
        return original(self, title, plan, settings, **named)

    monkeypatch.setattr(Context, "run", spy)
    result = METHODS["SPoT"].run(ctx, target)
    sources = [prompt.double().numpy().mean(axis=0) for prompt in source_prompts(ctx)]
    own = result.other_prompts["own"].double().numpy().mean(axis=0)
    cosines = [own @ each / np.linalg.norm(own) / np.linalg.norm(each) for each in sources]
    best = int(np.argmax(cosines))
    assert result.notes == f"from {ctx.sources[best].name} (cosine {cosines[best]:.3f})"
    assert torch.equal(starts[4], source_prompts(ctx)[best])  # three sources, the own prompt, then the transfer stage


@pytest.mark.parametrize(
    ("cosines", "top", "expected"),
    [
        ([0.1, 0.6, 0.3], 1, [0, 1, 0]),
        ([0.1, 0.6, 0.3], 2, [0, 2 / 3, 1 / 3]),
        ([0.1, 0.6, 0.3], 9, [0.1, 0.6, 0.3]),
        ([-0.1, 0.5, -0.3], 3, [0, 1, 0]),
        ([-0.2, -0.1, -0.3], 2, [0, 1, 0]),
    ],
)
def test_several_sources_are_weighted_by_their_cosines(cosines: list, top: int, expected: list) -> None:
    torch.testing.assert_close(nearest_weights(torch.tensor(cosines), top), torch.tensor(expected, dtype=torch.float32))


def test_spot_may_start_from_a_mean_of_sources(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(
        llama, tasks, tmp_path, learning_rate=0.5, target_learning_rate=1e-9, spot={"top": 2, "own_fraction": 0.5}
    )
    result = METHODS["SPoT"].run(ctx, target)
    sources = [prompt.double().numpy() for prompt in source_prompts(ctx)]
    own = result.other_prompts["own"].double().numpy().mean(axis=0)
    means = [source.mean(axis=0) for source in sources]
    cosines = [own @ mean / np.linalg.norm(own) / np.linalg.norm(mean) for mean in means]
    first, second = np.argsort(cosines)[::-1][:2]
    weight = max(0, cosines[second]) / (cosines[first] + max(0, cosines[second]))
    expected = (1 - weight) * sources[first] + weight * sources[second]
    np.testing.assert_allclose(result.prompt, expected, rtol=1e-4, atol=1e-5)


def test_one_prompt_for_all_sources_is_mpt_without_all_that_makes_it_mpt(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ctx, target = context(llama, tasks, tmp_path, mpt={"ablation": "neither", "sampling": "rows"})
    joint, bare = METHODS["Multi-PT"].run(ctx, target), METHODS["MPT"].run(ctx, target)
    assert torch.equal(joint.prompt, bare.prompt)
    assert joint.trainable_parameters == 3 * 16
    assert not torch.allclose(joint.other_prompts["shared"], ctx.start)
