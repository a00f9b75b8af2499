"""A frozen model from a hub id or a local folder, in the form that trains prompts fastest."""

from __future__ import annotations

import logging
import os
import warnings
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from prompttransfer.distributed import processes
from prompttransfer.files.excerpt import first_line
from prompttransfer.files.model_names import hub_folder, quiet_hub, suggestion
from prompttransfer.models import Backbone, native_bfloat16, quiet_transformers
from prompttransfer.models.fitness import check_fitness
from prompttransfer.models.head import is_kept

QUANTIZATIONS = ("none", "8bit", "4bit")


def load_model(
    name: str | Path,
    *,
    precision: str = "auto",
    max_length: int = 256,
    placement: str = "encoder",
    checkpointing: bool = False,
    quantization: str = "none",
    sharded: bool = False,
) -> Backbone:
    """Load a hub id or a local folder onto the accelerator if there is one; safetensors only, no code of the model's.

    Weights become float32 whatever they were stored in; with bfloat16 products, those of the products become bfloat16.

    Args:
        precision, max_length, placement, checkpointing: of `Backbone`.
        quantization: "8bit" or "4bit" (NF4) weights through bitsandbytes, on a GPU.
        sharded: spread the layers over the processes of the launcher, see `shard_layers`. The processes of a machine
            load the model in turn, so that its memory has to hold it once.

    Raises:
        ValueError: there is no such model, it is not fit for prompts, or this machine cannot quantize or shard it.
        ConnectionError: it is not on this machine, and the hub does not answer.
    """
    processes.start()
    config = read_configuration(str(name))
    if sharded and (quantization != "none" or processes.count() == 1):
        raise ValueError(
            "shard_model spreads the layers of a model that is not quantized over several processes; start them with "
            f"torchrun or accelerate launch; got quantization {quantization!r} and {processes.count()} process(es)"
        )
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On the CPU the fused attention's backward is slower than plain products for the short rows of prompt tuning.
    options: dict[str, Any] = {"attn_implementation": "eager"} if device.type == "cpu" else {}
    options |= _quantized(quantization, device)
    if precision == "auto":
        precision = "bfloat16" if native_bfloat16(device) else "float32"
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    mesh = init_device_mesh(device.type, (processes.count(),)) if sharded else None
    with processes.in_turn() if sharded else nullcontext():
        with quiet_transformers():
            model = kind.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, **options, trust_remote_code=False
            )
        if quantization == "none" and not sharded:
            model = model.to(device)  # a quantized one is where it belongs already
        backbone = Backbone(
            model,
            tokenizer,
            precision=precision,
            max_length=max_length,
            placement=placement,
            checkpointing=checkpointing,
        )
        if backbone.precision == "bfloat16" and quantization == "none":
            narrow_products(model)
        if mesh is not None:
            shard_layers(model, mesh)
            backbone.sharded = True
    check_fitness(backbone)
    return backbone


def read_configuration(name: str) -> Any:
    """The configuration of a hub id or a local folder: a few kilobytes, which tell whether there is such a model.

    Raises:
        ValueError: there is no such model.
        ConnectionError: it is not on this machine, and the hub does not answer.
        NoHome: it can only be one of the hub, whose files have no place on this machine.
    """
    if not _is_path(name):
        hub_folder()  # without a home folder the hub would make one in the current folder, named ~
    try:
        with quiet_hub():
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _no_model(name, error) from error


def _is_path(name: str) -> bool:
    """Whether a model's name is that of a folder, there or not, and none of the hub's."""
    return os.path.isdir(name) or name.startswith(("/", ".", "~")) or name.count("/") > 1


def _no_model(name: str, error: Exception) -> Exception:
    """What it means that a model's configuration cannot be had, and the way out."""
    near = suggestion(name)
    hint = f"; did you mean {near!r}?" if near else ""
    folder = Path(name)
    if folder.is_dir():
        lacks = first_line(error) if (folder / "config.json").is_file() else "it has no config.json"
        return ValueError(f"model {name!r} is no folder of a transformers model: {lacks}")
    if _is_path(name):
        return ValueError(
            f"model {name!r}: no such folder{hint or '; want one that save_pretrained wrote, or a hub id'}"
        )
    causes = {type(cause) for cause in (error, error.__cause__, error.__context__)}
    if causes & {GatedRepoError}:
        return ValueError(f"model {name!r} is gated: accept its terms at {ENDPOINT}/{name}, then `hf auth login`")
    if causes & {RepositoryNotFoundError, HFValidationError}:
        return ValueError(f"model {name!r} is neither a folder nor a public model of the hub{hint}")
    if causes & {LocalEntryNotFoundError, OfflineModeIsEnabled}:
        return ConnectionError(
            f"model {name!r} is neither a folder nor in the hub's cache, and {ENDPOINT} does not answer{hint}\n"
            f"Fetch it where there is a connection (hf download {name}), or name a local folder."
        )
    return ValueError(f"model {name!r}: {first_line(error)}{hint}")


def _quantized(quantization: str, device: torch.device) -> dict[str, Any]:
    """Options of from_pretrained for quantized weights."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: got {quantization!r}, want one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return {}
    if device.type != "cuda":
        raise ValueError(f"quantization {quantization!r} wants a CUDA GPU, and this machine has none")
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantization {quantization!r} wants bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # A warning at every product: that float32 becomes float16 in it.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": config, "device_map": {"": device}}


def narrow_products(model: nn.Module) -> None:
    """Store in bfloat16 what autocast would narrow at every call: the same products, in less time and memory.

    Not the layer that makes logits, see `prompttransfer.models.head`.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and not is_kept(module):
            for name, parameter in module.named_parameters(recurse=False):
                # A new parameter: an embedding that is tied to this one keeps its own.
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16(), requires_grad=False))


def shard_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the layers of a transformers model on the CPU over the devices of a mesh (FSDP2); the rest goes to each.

    Every process keeps a part of each layer; whoever computes a layer gathers it first and drops it behind. Embeddings,
    the last norm and the output layer stay whole: prompts and labels meet them outside of the model's own forward.
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
