"""A PEFT script with multitask prompt tuning; one line gives it the fused kernel. Its checkpoints stay PEFT's.

pip install "promptkernels[peft,transfer]" && python examples/peft_script.py
"""

import torch
from peft import MultitaskPromptTuningConfig, TaskType, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from promptkernels.peft import accelerate


def train(fused: bool, steps: int = 5) -> list[float]:
    torch.manual_seed(0)
    # A small random model; yours comes from AutoModelForCausalLM.from_pretrained.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes))
    config = MultitaskPromptTuningConfig(
        task_type=TaskType.CAUSAL_LM, num_tasks=3, num_virtual_tokens=20, num_ranks=2, prompt_tuning_init="RANDOM"
    )
    model = get_peft_model(base, config)

    if fused:
        accelerate(model)  # the one line

    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=0.01)
    losses = []
    for _ in range(steps):
        tokens, task_ids = torch.randint(0, 200, (6, 12)), torch.tensor([0, 1, 2, 0, 1, 2])
        loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=tokens, task_ids=task_ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    for step, (plain, fused) in enumerate(zip(train(False), train(True), strict=True), start=1):
        print(f"step {step}: loss {plain:.6f} with PEFT, {fused:.6f} with promptkernels")
