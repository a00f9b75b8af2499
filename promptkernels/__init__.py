"""Fused kernels for the hot operations of multi-task soft prompt tuning, on top of torch alone.

>>> import torch, promptkernels as pk
>>> start = torch.zeros(100, 768)
>>> prompts = torch.randn(6, 100, 768)
>>> pk.task_similarity(prompts, start).shape
torch.Size([6, 6])
"""

import sys

from promptkernels import ops
from promptkernels.backends import known as _known  # noqa: F401
from promptkernels.backends.registry import BackendStatus, BackendUnavailable, backends, set_backend, use_backend
from promptkernels.ops import *  # noqa: F403

# The function hides the package of the same name. It has that package's modules as attributes, where the statement
# `import promptkernels.backends.registry as registry` looks for them.
backends.__dict__ = vars(sys.modules["promptkernels.backends"])

__version__ = "0.1.0"

__all__ = ["BackendStatus", "BackendUnavailable", "backends", "set_backend", "use_backend"]
__all__ += ops.__all__
