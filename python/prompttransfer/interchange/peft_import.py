"""Read prompts from PEFT adapter folders: PROMPT_TUNING and MULTITASK_PROMPT_TUNING."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from prompttransfer.files.json_file import read_json
from prompttransfer.interchange.card import Card
from prompttransfer.interchange.files import Factors, as_float32, read_tensors
from prompttransfer.interchange.hub import CARDS, CONFIG, WEIGHTS, Place, adapter_folder

_KINDS = {
    "PROMPT_TUNING": ("prompt_embeddings",),
    "MULTITASK_PROMPT_TUNING": ("prompt_embeddings", "prefix_task_cols", "prefix_task_rows"),
}
_TASK_TYPES = {"CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "seq2seq"}


class Imported(NamedTuple):
    """A prompt (L, H) with its card, and its factors if it was a multitask prompt."""

    prompt: Tensor
    card: Card
    factors: Factors | None = None


def import_peft(place: Place) -> list[Imported]:
    """Read the prompts of an adapter folder, or of the hub ID of one, by task id. A PROMPT_TUNING adapter has one.

    The result matches PEFT's behaviour: it reads only the first half of a PROMPT_TUNING adapter for two sub-modules.
    From a checkpoint in pickle format, only tensors are loaded; from a hub, no pickle is fetched.

    Raises:
        ValueError: the folder has no adapter, a different kind of adapter, or tensors that do not fit its
            configuration.
    """
    folder = adapter_folder(place)
    config = _config(folder)
    kind, task_type = str(config.get("peft_type")), str(config.get("task_type"))
    file = folder / CONFIG
    if kind not in _KINDS:
        raise ValueError(f"{file}: got peft_type {kind}, want {' or '.join(_KINDS)}")
    if task_type not in _TASK_TYPES:
        raise ValueError(f"{file}: got task_type {task_type}, want {' or '.join(_TASK_TYPES)}")
    tensors = _checkpoint(folder)
    if set(tensors) != set(_KINDS[kind]):
        got, want = ", ".join(sorted(tensors)) or "nothing", ", ".join(_KINDS[kind])
        raise ValueError(f"{folder}: the checkpoint holds {got}, want {want}")
    count = partial(_count, file, config)
    parts = count("num_transformer_submodules", 2 if task_type == "SEQ_2_SEQ_LM" else 1)
    rows, hidden = count("num_virtual_tokens") * parts, count("token_dim")
    tasks, ranks = (count("num_tasks", 1), count("num_ranks", 1)) if kind == "MULTITASK_PROMPT_TUNING" else (1, 1)
    wanted: dict[str, tuple[int, ...]] = {"prompt_embeddings": (rows, hidden)}
    if kind == "MULTITASK_PROMPT_TUNING":
        wanted |= {"prefix_task_cols": (tasks, rows, ranks), "prefix_task_rows": (tasks, ranks, hidden)}
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{folder}: {name} has shape {tuple(tensors[name].shape)}, its configuration says {shape}")
        tensors[name] = as_float32(tensors[name], f"{folder}: {name}")
    shared = tensors["prompt_embeddings"]
    form = {
        "architecture": _TASK_TYPES[task_type],
        "placement": "encoder-decoder" if parts == 2 and kind != "PROMPT_TUNING" else "encoder",
    }
    method = "PT" if kind == "PROMPT_TUNING" else "MPT"
    origin = {"model": str(config.get("base_model_name_or_path") or ""), "method": method}
    cards = [
        card.model_copy(update=form | {name: value for name, value in origin.items() if not getattr(card, name)})
        for card in _cards(folder, tasks)
    ]
    if kind == "PROMPT_TUNING":
        return [Imported(shared[: rows // parts].clone(), cards[0])]
    cols, own = tensors["prefix_task_cols"], tensors["prefix_task_rows"]
    factors = [Factors(shared, u, v) for u, v in zip(cols, own, strict=True)]
    return [Imported(one.composed(), card, one) for one, card in zip(factors, cards, strict=True)]


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        hint = "" if folder.is_dir() else "; want a folder of this machine, or a hub ID such as user/name"
        raise ValueError(f"{folder}: not an adapter folder, there is no {CONFIG}{hint}")
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file}: got a {type(content).__name__}, want a configuration of PEFT")
    return content


def _count(file: Path, config: dict[str, Any], name: str, default: int | None = None) -> int:
    """A size in the configuration. null and a missing entry give the default."""
    value = config.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise ValueError(f"{file}: {name}: got {value!r}, want a whole number of at least 1")
    return value


def _checkpoint(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if file.is_file():
        return read_tensors(file)[0]
    file = folder / "adapter_model.bin"
    if not file.is_file():
        raise ValueError(f"{folder}: there is no {WEIGHTS}")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise anything on a damaged file
        raise ValueError(
            f"{file}: damaged, or holds more than tensors, which could run code; want {WEIGHTS}"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ValueError(f"{file}: holds something else than named tensors")
    return content


def _cards(folder: Path, count: int) -> list[Card]:
    """Cards written next to the adapter by an export; empty cards if there are none."""
    file = folder / CARDS
    if not file.is_file():
        return [Card()] * count
    content = read_json(file)
    if not isinstance(content, list) or len(content) != count:
        raise ValueError(f"{file}: want a list of {count} cards, one for each task")
    for card in content:
        if not isinstance(card, dict):
            raise ValueError(f"{file}: got a {type(card).__name__}, want the fields of a card")
    return [Card.checked(card, file) for card in content]
