"""Adapter folders that `peft.PeftModel.from_pretrained` loads, with the logits that the prompt has here.

What PEFT (0.21) makes of the two kinds of adapters decides which one a prompt becomes. PROMPT_TUNING puts virtual
tokens before the input of a causal model or of an encoder, and never before a decoder's, whatever its configuration
says. MULTITASK_PROMPT_TUNING composes shared * (cols @ rows) for the `task_ids` of the call and can put a second half
before the decoder's input; an encoder-decoder is then called with labels, and `generate` writes without that half.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from prompttransfer.files.durable import new_folder
from prompttransfer.files.paths import anywhere
from prompttransfer.interchange.card import Card
from prompttransfer.interchange.files import Factors, read_factors, read_prompt
from prompttransfer.interchange.hub import CARDS, CONFIG, WEIGHTS, Place


def export_files(
    paths: Sequence[Place],
    folder: Path,
    *,
    base_model: str | None = None,
    seq2seq: bool | None = None,
    multitask: bool = False,
    cards: Sequence[Card] | None = None,
) -> Path:
    """Write prompt files as one adapter: of one file its finished prompt, of several the tasks of a group of MPT.

    Args:
        base_model, seq2seq: where the cards do not say, or others are meant; seq2seq: an encoder-decoder.
        multitask: keep the factors of MPT also where it is one file.
        cards: in place of those in the files.

    Raises:
        ValueError: a file is no prompt, has no factors, shares its prompt with no other, or belongs to another model.
        FileExistsError: the folder is there already.
    """
    read = [read_prompt(path) for path in paths]
    cards = cards or [Card.of(metadata, path) for (_, metadata), path in zip(read, paths, strict=True)]
    first = cards[0]
    for path, card in zip(paths, cards, strict=True):
        for name in ("model_fingerprint", "placement"):
            if getattr(card, name) != getattr(first, name):
                raise ValueError(f"{path}: {name} differs from that of {paths[0]}; an adapter belongs to one model")
    base_model = anywhere(base_model or first.model)
    if not base_model:
        raise ValueError(f"{paths[0]} does not say which model it belongs to; want --model NAME")
    if seq2seq is None:
        seq2seq = _is_seq2seq(first, base_model, paths[0])
    options: dict[str, Any] = {"base_model": base_model, "seq2seq": seq2seq, "placement": first.placement}
    if len(paths) == 1 and not multitask:
        return export_peft(read[0][0], folder, **options, cards=cards)
    factors: list[Factors] = []
    for path in paths:
        found = read_factors(path)
        if found is None:
            raise ValueError(
                f"{path}: holds no factors, which a multitask adapter consists of; prompts of MPT have some where it "
                "transfers from all sources (transfer_from: all)"
            )
        if factors and not torch.equal(found.shared, factors[0].shared):
            raise ValueError(f"{path}: its shared prompt is not that of {paths[0]}; a group of MPT-group shares one")
        if factors and found.u.shape != factors[0].u.shape:
            raise ValueError(f"{path}: its rank {found.u.shape[1]} is not that of {paths[0]}")
        factors.append(found)
    u, v = torch.stack([one.u for one in factors]), torch.stack([one.v for one in factors])
    return export_multitask(factors[0].shared, u, v, folder, **options, cards=cards)


def export_peft(
    prompt: Tensor,
    folder: Path,
    *,
    base_model: str,
    seq2seq: bool = False,
    placement: str = "encoder",
    cards: Sequence[Card] = (),
) -> Path:
    """Write an adapter with this prompt (L, H); returns the folder.

    It is a PROMPT_TUNING adapter; with placement "encoder-decoder" a MULTITASK_PROMPT_TUNING one of a single task with
    factors of one, for PEFT knows no other way to put a prompt before a decoder's input.

    Args:
        base_model: id or folder of the model the prompt belongs to, recorded in the adapter.
        seq2seq: an encoder-decoder.
        cards: of the prompt, kept beside the adapter.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: a causal model has no decoder to put half of the prompt before.
    """
    if placement == "encoder-decoder":
        length, hidden = prompt.shape
        u, v = torch.ones(1, length, 1), torch.ones(1, 1, hidden)
        return export_multitask(
            prompt, u, v, folder, base_model=base_model, seq2seq=seq2seq, placement=placement, cards=cards
        )
    config = _config(prompt, base_model, seq2seq, placement) | {"peft_type": "PROMPT_TUNING"}
    return _write(folder, config, {"prompt_embeddings": prompt}, cards)


def export_multitask(
    shared: Tensor,
    u: Tensor,
    v: Tensor,
    folder: Path,
    *,
    base_model: str,
    seq2seq: bool = False,
    placement: str = "encoder",
    cards: Sequence[Card] = (),
) -> Path:
    """Write a MULTITASK_PROMPT_TUNING adapter of T tasks; returns the folder. See `export_peft`.

    Args:
        shared, u, v: (L, H), (T, L, R), (T, R, H); the prompt of task t is shared * (u_t @ v_t).
        cards: of each task, kept beside the adapter.
    """
    config = _config(shared, base_model, seq2seq, placement) | {
        "peft_type": "MULTITASK_PROMPT_TUNING",
        "num_tasks": u.shape[0],
        "num_ranks": u.shape[2],
    }
    tensors = {"prompt_embeddings": shared, "prefix_task_cols": u, "prefix_task_rows": v}
    return _write(folder, config, tensors, cards)


def _config(prompt: Tensor, base_model: str, seq2seq: bool, placement: str) -> dict[str, Any]:
    length, hidden = prompt.shape
    parts = 2 if placement == "encoder-decoder" else 1
    if parts == 2 and not seq2seq:
        raise ValueError("placement 'encoder-decoder' wants an encoder-decoder model, got a causal one")
    if length % parts:
        raise ValueError(f"placement 'encoder-decoder' halves the prompt, got {length} prompt tokens")
    return {
        "task_type": "SEQ_2_SEQ_LM" if seq2seq else "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "num_virtual_tokens": length // parts,
        "token_dim": hidden,
        # Without it PEFT takes two for an encoder-decoder and expects twice the virtual tokens.
        "num_transformer_submodules": parts,
        "prompt_tuning_init": "RANDOM",
    }


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor], cards: Sequence[Card]) -> Path:
    folder = Path(folder)
    with new_folder(folder) as fresh:
        fresh.mkdir()
        (fresh / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
        content = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(content, fresh / WEIGHTS, metadata={"format": "pt"})
        if cards:
            known = [card.model_dump(mode="json", exclude_defaults=True) for card in cards]
            (fresh / CARDS).write_text(json.dumps(known, indent=1, ensure_ascii=False), encoding="utf-8")
    return folder


def _is_seq2seq(card: Card, base_model: str, path: Place) -> bool:
    """By the card, else by the model's configuration where it lies on this machine."""
    if card.architecture is not None:
        return card.architecture == "seq2seq"
    from transformers import AutoConfig

    try:
        return bool(
            AutoConfig.from_pretrained(base_model, local_files_only=True, trust_remote_code=False).is_encoder_decoder
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} does not say what kind of model {base_model!r} is, and it is not on this machine; "
            "want --seq2seq or --causal"
        ) from error
