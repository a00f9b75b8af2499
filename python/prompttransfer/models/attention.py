"""Torch's attention kernels: which of them can be trained with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_cudnn_attention() -> Iterator[None]:
    """Context in which torch's attention does not use cuDNN, its first choice for bfloat16 on Hopper GPUs.

    cuDNN's backward pass returns NaN if there is a mask, the length leaves a remainder of 64 when divided by 128, and
    the scores of some row are very low, as those of padding are (pytorch issue 196678, torch 2.11 and later).
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
