"""DTVG's merge: at every step the target's prompt takes in the task vectors of the sources that agree with it.

pip install "promptkernels[transfer]" && python examples/own_loop/dtvg_merge.py
"""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import promptkernels as pk


def merge(start, sources, target, scale):
    """Start (L, H), sources (K, L, H), target (L, H), scale (K+1, L) -> merged prompt (L, H), its group (K+1,)."""
    prompts = torch.cat([sources, target[None]])
    with torch.no_grad():  # the choice has no gradient
        similarity = pk.task_similarity(prompts, start, metric="token_mean_dot", scale=scale)
        group = pk.select_group(similarity, target=len(sources))
    return pk.merge_task_vectors(start, prompts, scale, group.float()), group


def main(steps=30):
    torch.manual_seed(0)
    # Stand-ins: your model comes from from_pretrained, your prompts are tuned from one start, each on its own task.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).eval().requires_grad_(False)
    start, helpful, other = 0.1 * torch.randn(3, 8, 64)
    sources = start + torch.stack([helpful, 0.5 * helpful + 0.1 * other, -helpful])
    target = (start + 0.2 * helpful).requires_grad_()
    scale = torch.ones(4, 8, requires_grad=True)
    tokens = torch.randint(0, 200, (8, 12))

    optimizer = torch.optim.AdamW([{"params": [target], "lr": 0.01}, {"params": [scale], "lr": 0.05}])
    history = []
    for _ in range(steps):
        merged, group = merge(start, sources, target, scale)
        inputs = torch.cat([merged.expand(len(tokens), -1, -1), model.get_input_embeddings()(tokens)], dim=1)
        labels = F.pad(tokens, (len(start), 0), value=-100)  # no loss on the prompt
        loss = model(inputs_embeds=inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append((loss.item(), group[:-1].nonzero().flatten().tolist()))
    (first, group), (last, last_group) = history[0], history[-1]
    print(f"sources {group} -> {last_group}, loss {first:.3f} -> {last:.3f}")
    return history


if __name__ == "__main__":
    main()
