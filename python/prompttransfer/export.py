"""Trained prompts as files: safetensors with a card of strings, and adapter folders that PEFT loads."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

TENSOR = "prompt"


def write_prompt(path: Path, prompt: Tensor, metadata: dict[str, str]) -> None:
    """Write a prompt (L, H) as float32 with its metadata; a reader sees the old file or the new one, never half.

    Raises:
        ValueError: the prompt is not a matrix of finite numbers.
    """
    if prompt.dim() != 2 or not prompt.isfinite().all():
        raise ValueError(f"prompt must be a finite (L, H) matrix, got shape {tuple(prompt.shape)}")
    write_tensors(path, {TENSOR: prompt.float()}, metadata)


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, object]) -> None:
    """Write named tensors with their metadata; a reader sees the old file or the new one, never half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(content, temporary, metadata={key: str(value) for key, value in metadata.items()})
        os.replace(temporary, path)
        path.chmod(0o644)
    finally:
        Path(temporary).unlink(missing_ok=True)


def read_prompt(path: Path) -> tuple[Tensor, dict[str, str]]:
    """A prompt (L, H) float32 and its metadata.

    Raises:
        ValueError: no such file, or not a prompt file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such prompt file")
    try:
        with safe_open(path, framework="pt") as file:
            if TENSOR not in file.keys():  # noqa: SIM118 - not a dict
                raise ValueError(f"{path}: holds {', '.join(file.keys()) or 'nothing'}, want a tensor {TENSOR!r}")
            prompt, metadata = file.get_tensor(TENSOR), dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if prompt.dim() != 2 or not prompt.is_floating_point():
        raise ValueError(f"{path}: tensor {TENSOR!r} has shape {tuple(prompt.shape)}, want (L, H) floating")
    return prompt.to(torch.float32), metadata


def export_peft(prompt: Tensor, folder: Path, *, base_model: str, seq2seq: bool = False) -> Path:
    """Write a PEFT adapter folder (PROMPT_TUNING) that `PeftModel.from_pretrained` loads with this prompt (L, H).

    Args:
        base_model: id or folder of the model the prompt belongs to, recorded in the adapter.
        seq2seq: an encoder-decoder; the prompt then stands before the encoder's input only.

    Raises:
        FileExistsError: the folder is there already.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name a new folder for the adapter")
    length, hidden = prompt.shape
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_virtual_tokens": length,
        "token_dim": hidden,
        "num_transformer_submodules": 1,
        "prompt_tuning_init": "RANDOM",
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        (scratch / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        content = {"prompt_embeddings": prompt.detach().float().cpu().contiguous()}
        save_file(content, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
