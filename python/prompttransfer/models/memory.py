"""Layers whose activations are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


def recompute_layers(model: nn.Module) -> int:
    """Make every layer of a transformers model keep its input only; returns how many layers there are.

    transformers does this for models in training mode alone; a frozen model is mostly in evaluation mode.

    Raises:
        ValueError: the model has no layers that are known to be safe to compute twice.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"checkpointing: {type(model).__name__} has no layers that transformers can compute again")
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)
    return len(layers)


def _recomputed(forward: object, *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
