"""DTVG: rules of grouping against enumeration, the merged prompt, the recipe."""

from __future__ import annotations

import torch
from recipes import random

from prompttransfer.prompts import GroupedPrompt


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


def test_dtvg_groups_are_invariant_to_a_common_positive_scale() -> None:
    prompt = grouped()
    before = prompt.group()
    with torch.no_grad():
        prompt.source_scale.mul_(3.0)
        prompt.target_scale.mul_(3.0)
    assert torch.equal(prompt.group(), before)


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
