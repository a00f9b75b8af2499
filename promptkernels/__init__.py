"""Fused kernels for the hot operations of multi-task soft prompt tuning, on top of torch alone.

>>> import torch, promptkernels as pk
>>> start = torch.zeros(100, 768)
>>> prompts = torch.randn(6, 100, 768)
>>> pk.task_similarity(prompts, start).shape
torch.Size([6, 6])
"""

import sys

from promptkernels import reference
from promptkernels.backends import cpu, cuda, registry, triton
from promptkernels.backends.registry import BackendStatus, BackendUnavailable, backends, set_backend, use_backend
from promptkernels.ops import (
    compose_prompts,
    merge_task_vectors,
    prepend_prompts,
    select_group,
    svgd_direction,
    task_similarity,
)

# Here, because a backend needs the operations, which need the registry.
registry.BACKENDS.update({module.BACKEND.name: module.BACKEND for module in (cpu, cuda, triton, reference)})

# The function hides the package of its name. It has that package's modules as attributes, which is where the statement
# `import promptkernels.backends.registry as registry` looks for them.
backends.__dict__ = vars(sys.modules["promptkernels.backends"])

__version__ = "0.1.0"

__all__ = [
    "BackendStatus",
    "BackendUnavailable",
    "backends",
    "compose_prompts",
    "merge_task_vectors",
    "prepend_prompts",
    "select_group",
    "set_backend",
    "svgd_direction",
    "task_similarity",
    "use_backend",
]
