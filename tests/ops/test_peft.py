"""The drop-in module and the patch of a PEFT model, both against PEFT itself."""

from __future__ import annotations

import pytest
import torch
from cases import ids, rand

from promptkernels import compose_prompts
from promptkernels.nn import MultitaskPrompt
from promptkernels.peft import accelerate, restore

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

TASKS, TOKENS, RANK, HIDDEN = 3, 5, 2, 32


@pytest.fixture
def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=64, **sizes))
    config = peft.MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM", num_tasks=TASKS, num_ranks=RANK, num_virtual_tokens=TOKENS, prompt_tuning_init="RANDOM"
    )
    return peft.get_peft_model(base, config)


def loss_and_gradients(model, task_ids):
    model.zero_grad()
    tokens = ids(4 * 6, 64, seed=1).view(4, 6)
    loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens, task_ids=task_ids).loss
    loss.backward()
    return loss.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("task_ids", [[0, 2, 2, 1], [1]], ids=str)
def test_patched_model_computes_the_same(model, task_ids):
    task_ids = torch.tensor(task_ids)
    want_loss, want = loss_and_gradients(model, task_ids)
    assert accelerate(model) == 1
    loss, got = loss_and_gradients(model, task_ids)
    torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=1e-6)
    assert got.keys() == want.keys() and len(got) == 3
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-7)


def test_patch_uses_the_kernel_and_is_reversible(model, monkeypatch):
    calls = []
    monkeypatch.setattr("promptkernels.peft.compose_prompts", lambda *args: calls.append(1) or compose_prompts(*args))
    accelerate(model)
    loss_and_gradients(model, torch.tensor([0, 1, 2, 0]))
    assert len(calls) == 1
    assert restore(model) == 1 and restore(model) == 0
    loss_and_gradients(model, torch.tensor([0, 1, 2, 0]))
    assert len(calls) == 1


def test_patch_keeps_the_state_dict_and_the_error_for_missing_tasks(model):
    before = list(model.state_dict())
    accelerate(model)
    assert list(model.state_dict()) == before
    with pytest.raises(ValueError, match="task_ids cannot be None"):
        model.prompt_encoder["default"](torch.zeros(1, TOKENS, dtype=torch.long), None)


def test_a_model_without_multitask_prompts_is_refused():
    with pytest.raises(ValueError, match="MULTITASK_PROMPT_TUNING"):
        accelerate(torch.nn.Linear(2, 2))


def test_module_and_peft_load_each_other(model):
    encoder = model.prompt_encoder["default"]
    ours = MultitaskPrompt(TASKS, TOKENS, HIDDEN, RANK)
    ours.load_state_dict(encoder.state_dict())
    task_ids = ids(7, TASKS)
    want = encoder(torch.arange(TOKENS).expand(7, TOKENS), task_ids)
    torch.testing.assert_close(ours(task_ids), want, rtol=1e-6, atol=1e-9)
    embeds = rand(7, 3, HIDDEN)
    torch.testing.assert_close(ours.prepend(task_ids, embeds), torch.cat([want, embeds], 1), rtol=1e-6, atol=1e-9)
    encoder.load_state_dict(ours.state_dict())


@pytest.mark.parametrize("rank", [1, 3])
def test_every_task_starts_near_the_shared_prompt(rank):
    shared = rand(TOKENS, HIDDEN)
    prompt = MultitaskPrompt(TASKS, TOKENS, HIDDEN, rank, shared=shared)
    torch.testing.assert_close(prompt(torch.arange(TASKS)), shared.expand(TASKS, -1, -1), rtol=0.05, atol=1e-6)


def test_module_refuses_bad_sizes():
    with pytest.raises(ValueError, match="num_ranks must be at least 1, got 0"):
        MultitaskPrompt(2, 3, 4, 0)
    with pytest.raises(ValueError, match=r"shared must have shape \(3, 4\), got \(4, 3\)"):
        MultitaskPrompt(2, 3, 4, shared=rand(4, 3))
