"""Write adapter folders for `peft.PeftModel.from_pretrained` that give the same logits as the prompt does here.

The behaviour of PEFT (0.21) decides which kind of adapter a prompt becomes. PROMPT_TUNING puts virtual tokens before
the input of a causal model or of an encoder, but never before a decoder's, whatever its configuration says.
MULTITASK_PROMPT_TUNING composes shared * (cols @ rows) for the `task_ids` of the call and can put a second half before
the decoder's input. An encoder-decoder must then be called with labels; `generate` leaves out that half.
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
    """Write prompt files as one adapter: the finished prompt of one file, or the tasks of an MPT group in several.

    Args:
        base_model: model of the prompts; default: from the cards.
        seq2seq: whether it is an encoder-decoder; default: from the cards.
        multitask: keep the factors of MPT even for a single file.
        cards: used instead of the cards in the files.

    Raises:
        ValueError: a file is not a prompt, has no factors, has a different shared prompt, or belongs to another model.
        FileExistsError: the folder already exists.
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
        factor = read_factors(path)
        if factor is None:
            raise ValueError(
                f"{path}: has no factors, which a multitask adapter needs; prompts of MPT have them if it transfers "
                "from all sources (transfer_from: all)"
            )
        if factors and not torch.equal(factor.shared, factors[0].shared):
            raise ValueError(f"{path}: its shared prompt is not that of {paths[0]}; a group of MPT-group shares one")
        if factors and factor.u.shape != factors[0].u.shape:
            raise ValueError(f"{path}: its rank {factor.u.shape[1]} is not that of {paths[0]}")
        factors.append(factor)
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
    """Write an adapter with a prompt (L, H) and return its folder.

    It is a PROMPT_TUNING adapter. With placement "encoder-decoder", it is a MULTITASK_PROMPT_TUNING adapter with one
    task and factors of one, because PEFT has no other way to put a prompt before a decoder's input.

    Args:
        base_model: id or folder of the prompt's model, recorded in the adapter.
        seq2seq: whether the model is an encoder-decoder.
        cards: card of the prompt, written next to the adapter.

    Raises:
        FileExistsError: the folder already exists.
        ValueError: placement "encoder-decoder" for a causal model.
    """
    if placement == "encoder-decoder":
        u, v = torch.ones(1, len(prompt), 1), torch.ones(1, 1, prompt.shape[1])
        options: dict[str, Any] = {"base_model": base_model, "seq2seq": seq2seq, "placement": placement}
        return export_multitask(prompt, u, v, folder, **options, cards=cards)
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
    """Write a MULTITASK_PROMPT_TUNING adapter of T tasks and return its folder. See `export_peft`.

    Args:
        shared, u, v: (L, H), (T, L, R), (T, R, H); the prompt of task t is shared * (u_t @ v_t).
        cards: card of each task, written next to the adapter.
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
        # By default, PEFT uses two for an encoder-decoder and expects twice the virtual tokens.
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
    """Whether the model is an encoder-decoder: from the card, else from its configuration on this machine."""
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
