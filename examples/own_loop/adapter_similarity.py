"""The similarity of PEFT's prompt tuning adapters: of the prompts, and of what training added to a common start.

pip install "promptkernels[peft,transfer]" && python examples/own_loop/adapter_similarity.py
"""

import tempfile
from pathlib import Path

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from peft.utils import load_peft_weights
from transformers import LlamaConfig, LlamaForCausalLM

import promptkernels as pk


def prompt_of(adapter):
    """The prompt (L, H) in a folder, or a repository of the hub; the model is not needed."""
    return load_peft_weights(str(adapter), device="cpu")["prompt_embeddings"]


def adapter_similarity(adapters, start=None):
    """Cosines (T, T) of the prompts less `start`, an adapter saved before training; without one, as they are."""
    prompts = torch.stack([prompt_of(adapter) for adapter in adapters])
    return pk.task_similarity(prompts, None if start is None else prompt_of(start))


def make_adapters(folder, answers, steps=20):
    """Stand-ins: prompts from one start, each trained to answer with one token; their untrained start comes first."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes))
    model = get_peft_model(base, PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=8))
    model.save_pretrained(folder / "start")
    start = prompt_of(folder / "start")
    prompt = next(p for p in model.parameters() if p.requires_grad)
    for number, answer in enumerate(answers):
        prompt.data.copy_(start)
        optimizer = torch.optim.Adam([prompt], lr=0.01)
        for _ in range(steps):
            tokens = torch.randint(0, 200, (4, 10))
            optimizer.zero_grad()
            model(tokens, torch.ones_like(tokens), labels=torch.full_like(tokens, answer)).loss.backward()
            optimizer.step()
        model.save_pretrained(folder / f"adapter{number}")
    return [folder / "start", *(folder / f"adapter{number}" for number in range(len(answers)))]


def main(folder):
    start, *adapters = make_adapters(folder, answers=(7, 7, 50))  # the first two learn one task
    for name, table in (("prompts", adapter_similarity(adapters)), ("less start", adapter_similarity(adapters, start))):
        print(f"{name}: {table[0, 1]:.2f} for one task twice, {table[0, 2]:.2f} for two tasks")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
