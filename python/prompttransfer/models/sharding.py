"""A frozen model whose layers are spread over the processes of a launcher: FSDP2 of torch.

Every process keeps a part of each layer; whoever computes a layer gathers it first and drops it behind. Embeddings,
the last norm and the output layer stay whole: prompts and labels meet them outside of the model's own forward.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer


def shard_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the layers of a transformers model on the CPU over the devices of a mesh; the rest goes to each of them.

    No process sends another its weights, so all must have loaded the same ones, but they may do so in turn.

    Raises:
        ValueError: the model has no layers that are known to be called as a whole.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(f"shard_model: {type(model).__name__} has no layers that could be spread over processes")
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in model.parameters() if id(parameter) not in inside}
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # The whole model knows the order of its layers: one is gathered while the one before it computes.
    fully_shard(model, mesh=mesh, ignored_params=outside)
    model.to(torch.device(mesh.device_type))
    # That outputs must not be changed in place: they are not.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
