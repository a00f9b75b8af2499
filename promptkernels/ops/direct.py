"""Decide whether a call may skip torch's dispatcher, which takes longer than a small kernel.

It may if the dispatcher would only call the kernel. Anything else that it would do shows in the dispatch keys of the
tensors and in those of the thread. Features that act only in Python are checked one by one.
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


# Keys of tensors that are not plain: wrappers (torch.func, functionalization), tensors without data (fake, meta, zero),
# and tensors with a different memory format (sparse, quantized, negated). Autograd is not included, because the public
# functions handle it themselves; nor is autocast, which has no rule for these operations.
_PLAIN = [prefix + device for device in ("CPU", "CUDA", "XPU") for prefix in ("", "Autograd", "Autocast")]
SPECIAL = ~_bits("ADInplaceOrView", *_PLAIN)
# Keys of the thread: transforms of torch.func, modes that intercept calls, tracers.
_WATCHING = ~_bits("ADInplaceOrView", "BackendSelect")

dispatch_keys = torch._C._dispatch_keys
_included = torch._C._dispatch_tls_local_include_set
_compiling = torch.compiler.is_dynamo_compiling
_profiled = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


def watched(arguments: tuple[Any, ...]) -> bool:
    """Whether something must see this call: a compiler, a mode, a transform, a profiler, or a tensor subclass."""
    return bool(
        _compiling()
        or _included().raw_repr() & _WATCHING
        or has_torch_function(arguments)  # from a tensor subclass or a mode
        or forward_ad._current_level >= 0
        or _profiled()  # the profiler lists operations by name
    )
