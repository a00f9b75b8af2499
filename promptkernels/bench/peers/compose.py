"""Prompts of batch rows from a shared prompt and low-rank factors, alone and before the input embeddings."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from promptkernels.bench.cases import Case, Function, Inputs


def peft_module(x: Inputs) -> Function:
    """PEFT's own MultitaskPromptEmbedding with these tensors, called as in PEFT's model class."""
    from peft import MultitaskPromptTuningConfig
    from peft.tuners.multitask_prompt_tuning import MultitaskPromptEmbedding

    length, hidden = x["shared"].shape
    tasks, _, ranks = x["u"].shape
    config = MultitaskPromptTuningConfig(
        task_type="CAUSAL_LM",
        num_tasks=tasks,
        num_ranks=ranks,
        num_virtual_tokens=length,
        token_dim=hidden,
        num_transformer_submodules=1,
    )
    module = MultitaskPromptEmbedding(config, None)
    for owner, name, tensor in (
        (module.embedding, "weight", x["shared"]),
        (module, "prefix_task_cols", x["u"]),
        (module, "prefix_task_rows", x["v"]),
    ):
        delattr(owner, name)  # a tensor in place of the parameter, so that gradients reach the inputs
        setattr(owner, name, tensor)
    tokens = torch.arange(length, device=x["shared"].device).unsqueeze(0)
    return lambda y: module(tokens.expand(y["task_ids"].shape[0], -1), y["task_ids"])


def peft_form(x: Inputs) -> Tensor:
    """The same computation by hand, if PEFT is not installed."""
    length, batch = x["shared"].shape[0], x["task_ids"].shape[0]
    indices = torch.arange(length, device=x["shared"].device).expand(batch, length)
    prompts = torch.nn.functional.embedding(indices, x["shared"])
    columns = torch.index_select(x["u"], 0, x["task_ids"])
    rows = torch.index_select(x["v"], 0, x["task_ids"])
    prompts *= torch.matmul(columns, rows)
    return prompts


def compose_per_task(x: Inputs) -> Tensor:
    """A better plain form: compose every task once, then gather."""
    return (x["shared"] * (x["u"] @ x["v"])).index_select(0, x["task_ids"])


def _prepended(compose: Function) -> Function:
    return lambda x: torch.cat([compose(x).to(x["embeds"].dtype), x["embeds"]], dim=1)


def peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    name, compose = ("PEFT", peft_module(inputs)) if find_spec("peft") else ("PEFT (form)", peft_form)
    composed = {name: compose, "once per task": compose_per_task}
    if case.op == "compose":
        return composed
    return {f"{name} + cat": _prepended(function) for name, function in composed.items()}


def plain(case: Case) -> Function:
    return compose_per_task if case.op == "compose" else _prepended(compose_per_task)
