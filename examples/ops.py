"""The operations alone: what MPT, BMTPT and DTVG compute at every step, without any training layer.

python examples/ops.py
"""

import torch

import promptkernels as pk

torch.manual_seed(0)
start = torch.randn(20, 64)  # P_init (L, H), the start of all prompts

# DTVG: which sources help the target (the last row)? All of it stays on the device.
vectors = torch.randn(2, 20, 64)
prompts = start + torch.stack([vectors[0], 0.5 * vectors[0] + 0.1 * vectors[1], vectors[1], 0.8 * vectors[0]])
similarity = pk.task_similarity(prompts, start, metric="token_mean_dot")
group = pk.select_group(similarity, target=3)
merged = pk.merge_task_vectors(start, prompts, weights=group.float())
print("group of the target:", group.nonzero().flatten().tolist(), "- merged prompt", tuple(merged.shape))

# BMTPT: particles of a known posterior, N(1, 0.5^2) in every coordinate; SVGD finds its mean and its spread.
particles = torch.randn(64, 2)
for _ in range(500):
    scores = (1.0 - particles) / 0.5**2  # gradient of the log-density at each particle
    particles += 0.1 * pk.svgd_direction(particles, scores)
print(f"particles: mean {particles.mean():.2f} (1), spread {particles.std(dim=0).mean():.2f} (0.5)")

# MPT: the rows of one batch belong to different tasks; the model's input is written in one pass, gradients flow.
shared = start.clone().requires_grad_()
u = torch.ones(4, 20, 1, requires_grad=True)
v = torch.ones(4, 1, 64, requires_grad=True)
rows, embedded = torch.tensor([2, 0, 2, 3]), torch.randn(4, 9, 64)
inputs = pk.prepend_prompts(shared, u, v, rows, embedded)
inputs.square().mean().backward()
print("model input", tuple(inputs.shape), "- tasks with a gradient:", u.grad.flatten(1).any(dim=1).tolist())

for name, status in pk.backends().items():
    print(f"backend {name}: {status.reason or 'available'}")
