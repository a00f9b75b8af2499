"""Share of a training step: a frozen model of the demo's size, with one prompt per row from each method."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from promptkernels.bench.cases import Inputs, compose, group, randn
from promptkernels.bench.measure import OURS
from promptkernels.bench.peers import eager_peers
from promptkernels.bench.timing import sampler

BATCH, TASKS, LENGTH, HIDDEN, TEXT, RANK = 16, 6, 20, 576, 48, 1
_SECONDS, _FEWEST, _MOST = 60, 3, 30


@dataclass(frozen=True)
class StepCost:
    """Cost of a training step with one method and implementation of the prompts.

    Args:
        method: PT (one prompt for all rows), MPT (a composed prompt per row), DTVG (grouping and merging).
        form: ``promptkernels``, or the peer that computes the prompt.
        step_ms: milliseconds of a step, median over the rounds.
        ratio: step time over that of PT, median over the rounds.
        prompt_us: microseconds for the prompt and its backward pass alone; 0 for PT.
        share: prompt time over step time.
    """

    method: str
    form: str
    step_ms: float
    ratio: float
    prompt_us: float
    share: float


def model(device: torch.device) -> nn.Module:
    """A Llama with SmolLM2-135M's sizes and random, frozen weights; downloads nothing.

    Raises:
        ImportError: transformers is not installed.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=HIDDEN,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(device).requires_grad_(False)


def step_costs(device: torch.device, language_model: nn.Module) -> Iterator[StepCost]:
    """Interleaved rounds of forward and backward passes, with the loss on the last token as in classification."""
    text = randn(device, 9, BATCH, TEXT, HIDDEN, scale=0.02)
    labels = torch.randint(49152, (BATCH,), generator=torch.Generator().manual_seed(8)).to(device)
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    prompts: dict[tuple[str, str], Callable[[], object]] = {}
    for method, form, make, leaves in _prompt_makers(device):
        gradient = torch.ones_like(make())

        def prompt(make=make, gradient=gradient) -> None:
            make().backward(gradient)

        def step(make=make, leaves=leaves) -> None:
            for leaf in leaves:
                leaf.grad = None
            embeds = torch.cat([make().expand(BATCH, -1, -1), text], dim=1)
            logits = language_model(inputs_embeds=embeds, logits_to_keep=1, use_cache=False).logits[:, -1]
            nn.functional.cross_entropy(logits.float(), labels).backward()

        steps[method, form], prompts[method, form] = step, prompt
    samplers = {key: sampler(step, device, graphs=False) for key, step in steps.items()}
    rounds: list[dict[tuple[str, str], float]] = []
    spent = 0.0
    while len(rounds) < _FEWEST or (spent < _SECONDS and len(rounds) < _MOST):
        rounds.append({key: one.take() for key, one in samplers.items()})
        spent += sum(rounds[-1].values())
    base = ("PT", "torch")
    for key in steps:
        seconds = statistics.median(times[key] for times in rounds)
        alone = 0.0
        if key != base:
            timed = sampler(prompts[key], device, graphs=False)
            alone = statistics.median(timed.take() for _ in range(9))
        yield StepCost(
            *key,
            step_ms=round(1e3 * seconds, 2),
            ratio=round(statistics.median(times[key] / times[base] for times in rounds), 4),
            prompt_us=round(1e6 * alone, 1),
            share=alone / seconds,
        )


def _prompt_makers(device: torch.device) -> Iterator[tuple[str, str, Callable[[], Tensor], list[Tensor]]]:
    """Method, form, a function that computes the prompts with a gradient, and the leaves of the gradient."""
    plain = randn(device, 1, LENGTH, HIDDEN, scale=0.02).requires_grad_()
    yield "PT", "torch", lambda: plain.unsqueeze(0), [plain]
    cases = {
        "MPT": compose(BATCH, TASKS, LENGTH, HIDDEN, TEXT, RANK),
        "DTVG": group(TASKS, LENGTH, HIDDEN),
    }
    published = {"MPT": "PEFT", "DTVG": "pair calls"}
    for method, case in cases.items():
        inputs: Inputs = case.make(device)
        leaves = [inputs[name].requires_grad_() for name in case.leaves]
        forms = {OURS: case.ours}
        forms |= {n: f for n, f in eager_peers(case, inputs).items() if n.startswith(published[method])}
        for form, function in forms.items():
            yield method, form, lambda function=function, inputs=inputs: function(inputs), leaves
