"""The drop-in module and the patch of a PEFT model, both against PEFT itself."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys

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


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"torch.save": saved_and_loaded, "pickle": lambda m: pickle.loads(pickle.dumps(m)), "deepcopy": copy.deepcopy}


@pytest.mark.parametrize("how", COPIES)
def test_a_patched_model_can_be_copied_and_pickled(model, how):
    task_ids = torch.tensor([0, 2, 2, 1])
    want_loss, want = loss_and_gradients(model, task_ids)
    accelerate(model)
    again = COPIES[how](model)
    encoder, copied = model.prompt_encoder["default"], again.prompt_encoder["default"]
    assert type(copied) is type(encoder) and isinstance(copied, type(encoder).__mro__[2])
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()  # the copy has its own parameters
    for loss, got in (loss_and_gradients(again, task_ids), restore(again) and loss_and_gradients(again, task_ids)):
        torch.testing.assert_close(loss, want_loss, rtol=1e-6, atol=1e-6)
        for name in want:
            torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-7)
    assert type(copied) is type(COPIES[how](again).prompt_encoder["default"])


@pytest.mark.slow
def test_a_pickle_loads_in_a_new_process(model, tmp_path):
    accelerate(model)
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; m = torch.load(sys.argv[1], weights_only=False); print(type(m.prompt_encoder['default']))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "model.pt"], capture_output=True, text=True)
    assert "FusedMultitaskPromptEmbedding" in done.stdout, done.stderr


IDS = {
    "one for all": torch.tensor([2]),
    "a number": torch.tensor(2),
    "a 32-bit number": torch.tensor(1, dtype=torch.int32),
    "a row each": torch.tensor([0, 2, 2, 1], dtype=torch.int32),
}


@pytest.mark.parametrize("kind", IDS)
@pytest.mark.parametrize("rows", [1, 4])
def test_task_ids_are_read_as_peft_reads_them(model, kind, rows):
    encoder, task_ids = model.prompt_encoder["default"], IDS[kind]
    indices = torch.arange(TOKENS).expand(rows, TOKENS)
    if task_ids.dim() and len(task_ids) > rows:
        with pytest.raises(RuntimeError):
            encoder(indices, task_ids)
        accelerate(model)
        with pytest.raises(ValueError, match="task_ids must have one id, or one for each of the 1 rows, got 4"):
            encoder(indices, task_ids)
        return
    want = encoder(indices, task_ids)
    accelerate(model)
    torch.testing.assert_close(encoder(indices, task_ids), want, rtol=1e-6, atol=1e-9)


BAD_IDS = {
    "int": (1, "torch.Tensor, got int"),
    "list": ([0, 1, 2, 0], "torch.Tensor, got list"),
    "bool": (torch.ones(4, dtype=torch.bool), "int32 or int64, got torch.bool"),
    "float": (torch.zeros(4), "int32 or int64, got torch.float32"),
    "matrix": (torch.zeros(4, 1, dtype=torch.int64), r"shape \(B,\), got \(4, 1\)"),
    "negative": (torch.tensor([0, -1, 0, 0]), "holds -1, but valid task ids are 0..2"),
    "too large": (torch.tensor(3), "holds 3, but valid task ids are 0..2"),
    "too few": (torch.tensor([0, 1]), "one for each of the 4 rows, got 2"),
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_task_ids_that_peft_refuses_are_refused_by_name(model, kind):
    encoder, (task_ids, message) = model.prompt_encoder["default"], BAD_IDS[kind]
    indices = torch.arange(TOKENS).expand(4, TOKENS)
    with pytest.raises((TypeError, RuntimeError, IndexError)):
        encoder(indices, task_ids)
    accelerate(model)
    with pytest.raises((ValueError, IndexError), match=f"task_ids .*{message}"):
        encoder(indices, task_ids)


def test_what_another_patched_stays(model):
    """A forward that is not PEFT's, of a class or of an instance, is neither replaced nor taken away."""
    encoder = model.prompt_encoder["default"]

    class Own(type(encoder)):
        def forward(self, indices, task_ids):
            return "own"

    plain, encoder.__class__ = type(encoder), Own
    with pytest.raises(ValueError, match="MULTITASK_PROMPT_TUNING"):
        accelerate(model)
    encoder.__class__ = plain
    encoder.forward = lambda indices, task_ids: "hook"
    accelerate(model)
    assert restore(model) == 1 and encoder(None, None) == "hook"


def test_patched_model_refuses_tangents(model):
    accelerate(model)
    encoder, indices = model.prompt_encoder["default"], torch.arange(TOKENS).expand(1, TOKENS)

    def prompt(cols):
        return torch.func.functional_call(encoder, {"prefix_task_cols": cols}, (indices, torch.tensor([1])))

    cols = encoder.prefix_task_cols.detach()
    with pytest.raises(NotImplementedError, match="compose_prompts has no"):
        torch.func.jvp(prompt, (cols,), (cols,))


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
