"""Load a frozen model from a hub ID or a local folder, in the form that trains prompts fastest."""

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
    cuda_graphs: bool = False,
    quantization: str = "none",
    sharded: bool = False,
) -> Backbone:
    """Load a hub ID or a local folder, onto the accelerator if there is one. Reads safetensors and runs no remote code.

    Weights are converted to float32. With precision bfloat16, the weights of matrix products are stored in bfloat16.

    Args:
        precision, max_length, placement, checkpointing, cuda_graphs: as in `Backbone`.
        quantization: "8bit" or "4bit" (NF4) weights by bitsandbytes, on a GPU.
        sharded: spread the layers over the processes of the launcher, see `shard_layers`. The processes of a machine
            load the model in turn, so its memory needs to hold it only once.

    Raises:
        ValueError: there is no such model, it cannot read prompts, or this machine cannot quantize or shard it.
        ConnectionError: the model is not on this machine, and the hub does not answer.
    """
    processes.start()
    config = read_configuration(str(name))
    if sharded and (quantization != "none" or processes.count() == 1):
        raise ValueError(
            "shard_model spreads an unquantized model over several processes, which torchrun or accelerate launch "
            f"starts; got quantization {quantization!r} and {processes.count()} process(es)"
        )
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # On a CPU, the backward of fused attention is slower than plain products for the short rows of prompt tuning.
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
            model = model.to(device)  # a quantized model is already on its device
        backbone = Backbone(
            model,
            tokenizer,
            precision=precision,
            max_length=max_length,
            placement=placement,
            checkpointing=checkpointing,
            cuda_graphs=cuda_graphs,
        )
        if backbone.precision == "bfloat16" and quantization == "none":
            narrow_products(model)
        if mesh is not None:
            shard_layers(model, mesh)
            backbone.sharded = True
    check_fitness(backbone)
    return backbone


def read_configuration(name: str) -> Any:
    """Read the configuration of a hub ID or a local folder, a few kilobytes, to check that the model exists.

    Raises:
        ValueError: there is no such model.
        ConnectionError: the model is not on this machine, and the hub does not answer.
        NoHome: the name is a hub ID, and this machine has no folder for the hub's files.
    """
    if not _is_path(name):
        hub_folder()  # without a home folder, the hub would create a folder named ~ in the current one
    try:
        with quiet_hub():
            return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _no_model(name, error) from error


def _is_path(name: str) -> bool:
    """Whether a model's name is a path, existing or not, rather than a hub ID."""
    return os.path.isdir(name) or name.startswith(("/", ".", "~")) or name.count("/") > 1


def _no_model(name: str, error: Exception) -> Exception:
    """Explain why a model's configuration cannot be read, and what to do."""
    near = suggestion(name)
    hint = f"; did you mean {near!r}?" if near else ""
    folder = Path(name)
    if folder.is_dir():
        lacks = first_line(error) if (folder / "config.json").is_file() else "it has no config.json"
        return ValueError(f"model {name!r} is not a folder of a transformers model: {lacks}")
    if _is_path(name):
        return ValueError(
            f"model {name!r}: no such folder{hint or '; want a folder written by save_pretrained, or a hub ID'}"
        )
    causes = {type(cause) for cause in (error, error.__cause__, error.__context__)}
    if causes & {GatedRepoError}:
        return ValueError(f"model {name!r} is gated: accept its terms at {ENDPOINT}/{name}, then `hf auth login`")
    if causes & {RepositoryNotFoundError, HFValidationError}:
        return ValueError(f"model {name!r} is neither a folder nor a public model of the hub{hint}")
    if causes & {LocalEntryNotFoundError, OfflineModeIsEnabled}:
        return ConnectionError(
            f"model {name!r} is neither a folder nor in the hub's cache, and {ENDPOINT} does not answer{hint}\n"
            f"Download it on a machine with a connection (hf download {name}), or give a local folder."
        )
    return ValueError(f"model {name!r}: {first_line(error)}{hint}")


def _quantized(quantization: str, device: torch.device) -> dict[str, Any]:
    """Options of from_pretrained for quantized weights."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"quantization: got {quantization!r}, want one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return {}
    if device.type != "cuda":
        raise ValueError(f"quantization {quantization!r} needs a CUDA GPU, and this machine has none")
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"quantization {quantization!r} needs bitsandbytes: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if quantization == "8bit":
        # It warns at every product that float32 becomes float16.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return {"quantization_config": config, "device_map": {"": device}}


def narrow_products(model: nn.Module) -> None:
    """Store weights in bfloat16 that autocast would convert at every call: the same products, in less time and memory.

    The output layer stays as it is, see `prompttransfer.models.head`.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)) and not is_kept(module):
            for name, parameter in module.named_parameters(recurse=False):
                # A new parameter, so that an embedding tied to this one keeps its own.
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16(), requires_grad=False))


def shard_layers(model: nn.Module, mesh: DeviceMesh) -> None:
    """Spread the layers of a transformers model on the CPU over the devices of a mesh (FSDP2).

    Every process keeps a part of each layer, gathers a layer before computing it and frees it afterwards. Embeddings,
    the last norm and the output layer are copied to every device, because prompts and labels use them outside the
    model's own forward. Processes do not send each other weights, so all must have loaded the same model; they may do
    so in turn.


    Raises:
        ValueError: the model has no layers that can be sharded one by one.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"shard_model: {type(model).__name__} has no layers that can be spread over processes; set it to false"
        )
    inside = {id(parameter) for layer in layers for parameter in layer.parameters()}
    outside = {parameter for parameter in model.parameters() if id(parameter) not in inside}
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    # Wrapping the whole model tells FSDP the order of the layers, so it gathers one while the previous one computes.
    fully_shard(model, mesh=mesh, ignored_params=outside)
    model.to(torch.device(mesh.device_type))
    # It warns against in-place changes of outputs, and there are none.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
