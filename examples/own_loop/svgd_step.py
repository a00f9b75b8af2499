"""An SVGD step over prompts: particles of one prompt that move to where the posterior is high, and apart.

pip install "promptkernels[transfer]" && python examples/own_loop/svgd_step.py
"""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import promptkernels as pk


def log_posterior(model, particles, start, tokens, labels, prior_std=1.0):
    """Sum over particles (M, L, H) of log p(labels | tokens, particle) + log N(particle; start, prior_std^2)."""
    count, rows = len(particles), len(tokens)
    embedded = model.get_input_embeddings()(tokens).repeat(count, 1, 1)
    inputs = torch.cat([particles.repeat_interleave(rows, dim=0), embedded], dim=1)  # every particle reads every row
    logits = model(inputs_embeds=inputs).logits[:, -tokens.shape[1] - 1 : -1]
    cross_entropy = F.cross_entropy(logits.flatten(0, 1), labels.repeat(count, 1).flatten(), reduction="sum")
    return -cross_entropy - 0.5 * (particles - start).square().sum() / prior_std**2


def svgd_step(particles, log_p, optimizer):
    """One step of the optimizer along the direction of SVGD; log_p is log_posterior of these particles."""
    (scores,) = torch.autograd.grad(log_p, particles)
    particles.grad = -pk.svgd_direction(particles, scores)  # optimizers descend, SVGD ascends
    optimizer.step()


def main(steps=50):
    torch.manual_seed(0)
    # A stand-in: your model comes from from_pretrained, your start P_init (L, H) from rows of its vocabulary.
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=200, **sizes)).eval().requires_grad_(False)
    tokens = torch.randint(0, 200, (8, 12))
    tokens[:, -1] = 7  # the answer is the last token
    labels = tokens.clone()
    labels[:, :-1] = -100

    start = 0.1 * torch.randn(8, 64)
    particles = (start + 0.01 * torch.randn(5, 8, 64)).requires_grad_()
    optimizer = torch.optim.Adam([particles], lr=0.02)
    history = []
    for _ in range(steps):
        log_p = log_posterior(model, particles, start, tokens, labels)
        history.append((log_p.item() / len(particles), torch.pdist(particles.detach().flatten(1)).mean().item()))
        svgd_step(particles, log_p, optimizer)
    (first, near), (last, far) = history[0], history[-1]
    print(f"log posterior {first:.1f} -> {last:.1f}, distance between particles {near:.2f} -> {far:.2f}")
    return history


if __name__ == "__main__":
    main()
