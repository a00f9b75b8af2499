"""When a call may go to its kernel without torch's dispatcher, which takes longer than a small kernel runs.

It may where the dispatcher would do nothing but call the kernel. What it does beyond that shows in two places: in the
dispatch keys of the tensors, and in those that are included for the whole thread. What acts in Python alone is looked
for by name.
"""

from __future__ import annotations

from typing import Any

import torch
from torch._C import DispatchKey, DispatchKeySet
from torch.autograd import forward_ad
from torch.overrides import has_torch_function


def _bits(*names: str) -> int:
    bits = 0
    for name in names:
        bits |= DispatchKeySet(getattr(DispatchKey, name)).raw_repr()
    return bits


# Keys of a tensor that say more than plain: of a wrapper (torch.func, functionalization), of a tensor without data
# (fake, meta, zero), or of memory that is read in another way (sparse, quantized, negated). Autograd is none of them,
# because the public functions see to it themselves; nor is autocast, which has no rule for these operations.
_PLAIN = [prefix + device for device in ("CPU", "CUDA", "XPU") for prefix in ("", "Autograd", "Autocast")]
SPECIAL = ~_bits("ADInplaceOrView", *_PLAIN)
# Keys of the thread: of a transform of torch.func, of a mode that intercepts calls, of a tracer.
_WATCHING = ~_bits("ADInplaceOrView", "BackendSelect")

dispatch_keys = torch._C._dispatch_keys
_included = torch._C._dispatch_tls_local_include_set
_compiling = torch.compiler.is_dynamo_compiling
_profiled = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


def watched(arguments: tuple[Any, ...]) -> bool:
    """Whether somebody has to see this call: a compiler, a mode, a transform, a profiler, or the class of a tensor."""
    return bool(
        _compiling()
        or _included().raw_repr() & _WATCHING
        or has_torch_function(arguments)  # of a tensor, or of a mode
        or forward_ad._current_level >= 0
        or _profiled()  # it lists operations by name
    )
