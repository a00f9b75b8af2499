"""DTVG: rules of grouping against enumeration, the merged prompt, the recipe."""

from __future__ import annotations

from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import context, random
from torch.utils._python_dispatch import TorchDispatchMode

import promptkernels as pk
from prompttransfer import RunConfig
from prompttransfer.methods import METHODS
from prompttransfer.methods.shared import source_prompts
from prompttransfer.models import Backbone
from prompttransfer.prompts import GroupedPrompt, SoftPrompt, group_rule
from prompttransfer.prompts.grouping import RULES, best_group
from prompttransfer.tasks.task import Task

# rules of grouping


def similarities(sources: int, seed: int) -> torch.Tensor:
    """Of random vectors with something in common; the target is the last one."""
    vectors = random(sources + 1, 6, seed=seed) + 0.5 * random(6, seed=seed + 1000)
    return vectors @ vectors.T


def literal_group(
    similarity: torch.Tensor, rule: str, consistency_weight: float = 1.0, positive_only: bool = True
) -> set[int]:
    """The definition, candidate by candidate, in Python numbers."""
    s = similarity.double().tolist()
    target = len(s) - 1
    sources = [k for k in range(target) if s[k][target] >= 0 or not positive_only]
    ranked = sorted(sources, key=lambda k: -s[k][target])
    if rule == "positive":
        return {k for k in range(target) if s[k][target] >= 0}

    def target_similarity(group: tuple[int, ...]) -> float:
        return sum(s[k][target] for k in group) / len(group)

    def consistency(group: tuple[int, ...]) -> float:
        pairs = [(i, j) for i in group for j in group if i != j]
        return sum(s[i][j] for i, j in pairs) / len(pairs) if pairs else 0.0

    def value(group: tuple[int, ...]) -> float:
        if rule == "nearest":
            return target_similarity(group)
        if rule.startswith("consistent"):
            return consistency(group)
        return target_similarity(group) + consistency_weight * consistency(group)

    prefixes = [tuple(ranked[:size]) for size in range(1, len(ranked) + 1)]
    subsets = list(chain.from_iterable(combinations(ranked, size) for size in range(1, len(ranked) + 1)))
    candidates = {"nearest": prefixes[:1], "subset": subsets}.get(rule.split("-")[-1], prefixes)
    best = max(candidates, key=value, default=())  # the first of equals
    least = value(best) > 0 if rule == "consistent-subset" else bool(best) and value(best) >= 0
    return set(best) if best and least else set()


@pytest.mark.parametrize("positive_only", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_its_definition_by_enumeration(rule: str, positive_only: bool) -> None:
    groups = set()
    for seed in range(25):
        sources = 1 + seed % 6
        similarity = similarities(sources, seed)
        got = group_rule(rule, consistency_weight=0.7, positive_only=positive_only)(similarity, sources)
        want = literal_group(similarity, rule, 0.7, positive_only)
        assert got.dtype == torch.bool and got[sources]
        assert set(got[:-1].nonzero().flatten().tolist()) == want, (seed, similarity)
        groups.add(frozenset(want))
    assert len(groups) > 5


@pytest.mark.parametrize("rule", RULES)
def test_a_target_at_its_start_takes_sources_that_agree(rule: str) -> None:
    """At P_init the target's task vector is zero, so its similarity with every source is 0 and not negative."""
    similarity = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]])
    got = group_rule(rule, positive_only=True)(similarity, 2)
    want = {0} if rule == "nearest" else {0, 1}
    assert set(got[:-1].nonzero().flatten().tolist()) == literal_group(similarity, rule, 1.0, True) == want


@pytest.mark.parametrize("target", [0, 2, 4])
def test_the_target_may_be_any_row(target: int) -> None:
    similarity = similarities(4, 3)
    order = [*(k for k in range(5) if k != target), target]
    want = group_rule("best-subset")(similarity[order][:, order], 4)
    assert torch.equal(group_rule("best-subset")(similarity, target)[order], want)


def test_prefixes_by_consistency_are_the_published_rule() -> None:
    for seed in range(20):
        similarity = similarities(6, seed)
        assert torch.equal(
            best_group(similarity, 6, subsets=False, similarity_weight=0.0), pk.select_group(similarity, 6)
        )


def test_sixteen_sources_are_searched_exactly() -> None:
    similarity = similarities(16, 5)
    got = best_group(similarity, 16, subsets=True, positive_only=False)
    s = similarity.double().numpy()
    values = {}
    for number in range(1, 2**16):
        group = [k for k in range(16) if number >> k & 1]
        size = len(group)
        inside = s[group][:, group].sum() - s[group, group].sum()
        values[number] = s[group, 16].mean() + (inside / (size * (size - 1)) if size > 1 else 0)
    best = max(values, key=values.get)
    assert got[:-1].tolist() == [bool(best >> k & 1) for k in range(16)]
    with pytest.raises(ValueError, match="at most 16 sources, got 17"):
        best_group(similarities(17, 0), 17, subsets=True)


@pytest.mark.parametrize("rule", RULES)
def test_a_diverged_source_is_left_out(rule: str) -> None:
    similarity = similarities(4, 0).abs()
    without = group_rule(rule)(similarity[1:, 1:], 3)
    similarity[0, :] = similarity[:, 0] = torch.nan
    got = group_rule(rule)(similarity, 4)
    assert got.tolist() == [False, *without.tolist()]


@pytest.mark.parametrize("rule", RULES)
def test_no_source_of_positive_similarity_leaves_the_target_alone(rule: str) -> None:
    similarity = similarities(4, 0)
    similarity[:4, 4] = similarity[4, :4] = -1.0
    assert group_rule(rule)(similarity, 4).tolist() == [False] * 4 + [True]


def test_consistency_weight_moves_the_choice() -> None:
    # sources 0 and 1 agree; source 2 is nearest to the target and disagrees with both
    similarity = torch.tensor([[1, 1, -1, 0.5], [1, 1, -1, 0.5], [-1, -1, 1, 0.9], [0.5, 0.5, 0.9, 1]])
    assert group_rule("best-subset", consistency_weight=0.1)(similarity, 3).tolist() == [False, False, True, True]
    assert group_rule("best-subset", consistency_weight=1.0)(similarity, 3).tolist() == [True, True, False, True]
    assert group_rule("best-prefix", consistency_weight=1.0)(similarity, 3).tolist() == [False, False, True, True]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'greedy'.*consistent-prefix"):
        group_rule("greedy")
    with pytest.raises(ValueError, match=r"scaling.*'token'"):
        GroupedPrompt(random(3, 4), random(2, 3, 4), random(3, 4), scaling="token")


# the merged prompt


def grouped(grouping: str = "dynamic") -> GroupedPrompt:
    start = random(3, 4)
    near, far = random(3, 4, seed=1), -random(3, 4, seed=1)
    return GroupedPrompt(start, start + torch.stack([near, far, 0.5 * near]), start + near, grouping=grouping)


def test_dtvg_merges_the_group_and_trains_only_its_scales() -> None:
    prompt = grouped()
    assert prompt.group().tolist() == [True, False, True, True]
    expected = prompt.start + 2.5 * (prompt.prompt - prompt.start)
    torch.testing.assert_close(prompt.composed(), expected.detach(), rtol=1e-5, atol=1e-5)
    prompt.prepend(random(2, 1, 4)).sum().backward()
    assert prompt.source_scale.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, True]
    assert prompt.target_scale.grad.abs().sum() > 0
    assert prompt.prompt.grad.abs().sum() > 0
    assert prompt.history() == {"groups": [[True, False, True, True]]}


@pytest.mark.parametrize("rule", RULES)
def test_groups_are_invariant_to_a_common_positive_scale(rule: str) -> None:
    start, sources, own = random(3, 4), random(5, 3, 4, seed=1), random(3, 4, seed=2)
    prompt = GroupedPrompt(start, sources, own, rule=group_rule(rule))
    before = prompt.group()
    assert before[:-1].any()
    with torch.no_grad():
        prompt.source_scale.mul_(3.0)
        prompt.target_scale.mul_(3.0)
    assert torch.equal(prompt.group(), before)


@pytest.mark.parametrize("scaling", ["per-token", "scalar", "none"])
def test_scales_may_start_at_the_mean_of_the_group(scaling: str) -> None:
    start, common = random(3, 4), random(3, 4, seed=9)
    sources, target = start + common + random(3, 3, 4, seed=1), start + common
    summed = GroupedPrompt(start, sources, target, scaling=scaling)
    mean = GroupedPrompt(start, sources, target, scaling=scaling, scale_start="mean")
    group = summed.group()
    assert torch.equal(mean.group(), group) and group.sum() > 1
    vectors = torch.cat([sources, target[None]])[group] - start
    torch.testing.assert_close(summed.composed(), start + vectors.sum(dim=0))
    torch.testing.assert_close(mean.composed(), start + vectors.mean(dim=0))


def test_dtvg_group_modes() -> None:
    assert grouped("all").group().all()
    assert grouped("none").group().tolist() == [False, False, False, True]
    fixed, dynamic = grouped("fixed"), grouped("dynamic")
    for prompt in (fixed, dynamic):
        prompt.group()
        with torch.no_grad():
            prompt.target_scale.mul_(-1.0)
    assert fixed.group().tolist() == [True, False, True, True]
    assert dynamic.group().tolist() == [False, True, False, True]


class NoCopyToTheHost(TorchDispatchMode):
    """Fails where a GPU would have to wait: a value read by Python, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2"), name
        return func(*args, **(kwargs or {}))


def test_the_mode_notices_a_copy() -> None:
    with NoCopyToTheHost(), pytest.raises(AssertionError, match="_local_scalar_dense"):
        torch.ones(()).item()


@pytest.mark.parametrize("grouping", ["dynamic", "fixed", "all", "none"])
@pytest.mark.parametrize("rule", RULES)
def test_a_step_never_asks_the_device_for_a_value(rule: str, grouping: str) -> None:
    start = random(3, 4)
    prompt = GroupedPrompt(
        start, start + random(5, 3, 4, seed=1), start + random(3, 4, seed=2), rule=group_rule(rule), grouping=grouping
    )
    embeds = random(2, 5, 4, seed=3)
    with NoCopyToTheHost():
        prompt.prepend(embeds).square().sum().backward()
    assert prompt.source_scale.grad is not None
    assert len(prompt.history()["groups"]) == 1


@pytest.mark.parametrize("metric", ["token_mean_dot", "cosine", "token_mean_cosine"])
def test_the_metric_compares_scaled_task_vectors(metric: str) -> None:
    start, sources, own = random(3, 4), random(2, 3, 4, seed=1), random(3, 4, seed=2)
    prompt = GroupedPrompt(start, sources, own, metric=metric)
    with torch.no_grad():
        prompt.source_scale.copy_(random(2, 3, seed=3))
        prompt.target_scale.copy_(random(3, seed=4))
    scale = torch.cat([prompt.source_scale, prompt.target_scale[None]]).detach().double()
    vectors = scale[..., None] * (torch.cat([sources, own[None]]) - start).double()
    rows = vectors.flatten(1) if metric == "cosine" else vectors.mean(dim=1)
    expected = rows @ rows.T
    if metric != "token_mean_dot":
        expected = expected / rows.norm(dim=1)[:, None] / rows.norm(dim=1)
    torch.testing.assert_close(prompt.similarity().double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("scaling", "count"), [("per-token", 12 + 3 * 3), ("scalar", 12 + 3), ("none", 12)])
def test_scalings_merge_with_their_own_number_of_factors(scaling: str, count: int) -> None:
    start, sources, own = random(3, 4), random(2, 3, 4, seed=1), random(3, 4, seed=2)
    prompt = GroupedPrompt(start, sources, own, grouping="all", scaling=scaling)
    assert prompt.trainable_parameters() == count
    assert sum(p.numel() for group in prompt.parameter_groups(0.1) for p in group["params"]) == count
    with torch.no_grad():
        if scaling != "none":
            prompt.source_scale.copy_(random(*prompt.source_scale.shape, seed=3))
            prompt.target_scale.copy_(random(*prompt.target_scale.shape, seed=4))
    alpha = torch.cat([prompt.source_scale, prompt.target_scale[None]]).expand(-1, 3)
    expected = start.clone()
    for scale, vector in zip(alpha, torch.cat([sources, own[None]]) - start, strict=True):
        expected = expected + scale[:, None] * vector
    torch.testing.assert_close(prompt.prepend(torch.empty(1, 0, 4))[0], expected)
    prompt.prepend(torch.empty(1, 0, 4)).square().sum().backward()
    again = expected.square().sum()
    if scaling != "none":
        (by_hand,) = torch.autograd.grad(again, prompt.source_scale)
        torch.testing.assert_close(prompt.source_scale.grad, by_hand)


def test_source_scales_of_zero_give_the_loss_and_gradient_of_prompt_tuning(llama: Backbone) -> None:
    start, own = random(3, 16), random(3, 16, seed=1)
    merged, plain = GroupedPrompt(start, random(2, 3, 16, seed=2), own, grouping="all"), SoftPrompt(own)
    with torch.no_grad():
        merged.source_scale.zero_()
    batch = llama.collate([[10, 11, 12], [13]])
    losses = []
    for prompt in (merged, plain):
        losses.append(llama(prompt, batch).logits.square().mean())
        losses[-1].backward()
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(merged.prompt.grad, plain.prompt.grad, rtol=1e-4, atol=1e-6)


# the recipe


def test_variants_and_ablations_are_the_settings_they_name() -> None:
    def dtvg(**settings):
        config = RunConfig(transfer_from="all", dtvg=settings).dtvg
        return config.grouping, config.rule, config.positive_only, config.scaling

    assert dtvg() == dtvg(variant="code") == ("dynamic", "consistent-prefix", True, "per-token")
    assert dtvg(variant="paper") == ("dynamic", "best-prefix", True, "per-token")
    assert dtvg(variant="paper", rule="best-subset")[1] == "best-subset"
    assert dtvg(ablation="positive-filter")[1] == "positive"
    assert dtvg(ablation="max-consistency")[1:3] == ("consistent-subset", False)
    assert dtvg(ablation="target-only")[0] == "none"
    assert dtvg(ablation="no-grouping")[0] == "all"
    assert dtvg(ablation="fixed-group")[:2] == ("fixed", "consistent-prefix")
    assert dtvg(ablation="spot") == dtvg(ablation="dynamic-spot")
    assert dtvg(ablation="spot")[0] == "spot"
    assert dtvg(ablation="no-scaling")[3] == "none"
    with pytest.raises(ValueError, match=r"'positive-filter'.*rule='positive'.*rule='nearest'"):
        dtvg(ablation="positive-filter", rule="nearest")
    with pytest.raises(ValueError, match="at most 16 sources, got 17"):
        RunConfig(sources=tuple(f"s{k}" for k in range(17)), transfer_from="all", dtvg={"rule": "best-subset"})


@pytest.mark.parametrize(
    ("settings", "least", "most"),
    [
        ({"ablation": "no-grouping"}, 3, 3),
        ({"ablation": "target-only"}, 0, 0),
        ({"rule": "nearest"}, 0, 1),
        ({"variant": "paper", "scaling": "scalar"}, 0, 3),
        ({"rule": "best-subset", "positive_only": False, "metric": "cosine"}, 0, 3),
    ],
)
def test_the_recipe_follows_its_settings(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, settings: dict, least: int, most: int
) -> None:
    ctx, target = context(llama, tasks, tmp_path, dtvg=settings)
    result = METHODS["DTVG"].run(ctx, target)
    groups = [group for _, group in result.history["groups"]]
    assert [update for update, _ in result.history["groups"]] == [4, 5, 6]
    assert all(least <= len(group) <= most for group in groups)
    scales = {"scalar": 4, "none": 0}.get(settings.get("scaling"), 4 * 3)
    assert result.trainable_parameters == 3 * 16 + scales
    assert (result.target_updates, result.target_examples) == (6, 24)


@pytest.mark.parametrize("ablation", ["spot", "dynamic-spot"])
def test_both_spots_are_prompt_tuning_from_the_source_nearest_to_the_raw_own_prompt(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, ablation: str
) -> None:
    ctx, target = context(
        llama, tasks, tmp_path, learning_rate=0.5, max_grad_norm=0.0, dtvg={"ablation": ablation}, warmup=0.0
    )
    result = METHODS["DTVG"].run(ctx, target)
    assert result.trainable_parameters == 3 * 16 and (result.target_updates, result.target_examples) == (6, 24)
    own = result.other_prompts["own"].double().numpy().mean(axis=0)
    sources = [prompt.detach().clone() for prompt in source_prompts(ctx)]
    cosines = []
    for source in sources:
        mean = source.double().numpy().mean(axis=0)
        cosines.append(own @ mean / np.linalg.norm(own) / np.linalg.norm(mean))
    # Plain prompt tuning from there, with the last three of the six batches.
    prompt = torch.nn.Parameter(sources[int(np.argmax(cosines))])
    optimizer = torch.optim.AdamW([prompt], lr=0.5, weight_decay=1e-5)
    for update, batch in enumerate(ctx.target_batches(target)[3:]):
        optimizer.param_groups[0]["lr"] = 0.5 * (3 - update) / 3
        rows = [target.train[index] for index in batch]
        embeds = [torch.cat([prompt, llama.embedding(torch.tensor(row.ids))]) for row in rows]
        logits = torch.stack([llama.model(inputs_embeds=each[None]).logits[0, -1] for each in embeds])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.tensor([row.answer[0] for row in rows])).backward()
        optimizer.step()
    torch.testing.assert_close(result.prompt, prompt.detach(), rtol=1e-3, atol=1e-3)


def test_max_consistency_merges_nothing_where_no_pair_agrees() -> None:
    # Sources that disagree with each other and agree with the target.
    similarity = torch.tensor([[1, -0.5, -0.2, 0.9], [-0.5, 1, -0.1, 0.8], [-0.2, -0.1, 1, 0.7], [0.9, 0.8, 0.7, 1]])
    published = RunConfig(transfer_from="all", dtvg={"ablation": "max-consistency"}).dtvg
    rule = group_rule(published.rule, positive_only=published.positive_only)
    assert rule(similarity, 3).tolist() == [False, False, False, True]
    similarity[0, 1] = similarity[1, 0] = 0.1
    assert rule(similarity, 3).tolist() == [True, True, False, True]


def test_a_fixed_group_stays_and_names_itself(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, dtvg={"ablation": "fixed-group"}, target_learning_rate=1.0)
    result = METHODS["DTVG"].run(ctx, target)
    groups = [group for _, group in result.history["groups"]]
    assert groups[0] == groups[1] == groups[2]
    assert result.notes == f"merged: {', '.join(groups[0]) or 'no source'}"


@pytest.mark.slow
def test_fused_and_reference_operations_train_alike(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    curves = []
    for name in ("cpu", "reference"):
        with pk.use_backend(name):
            ctx, target = context(llama, tasks, tmp_path / str(name))
            ctx.config.target_updates = 100
            curves.append([loss for _, loss in METHODS["DTVG"].run(ctx, target).history["loss"]])
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=0)
