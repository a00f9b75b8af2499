"""Targets: prompt files and their cards, adapters of PEFT, libraries."""

from __future__ import annotations

import json
import math
import struct
from functools import partial
from typing import Any

import torch
from safetensors.torch import save

from prompttransfer.interchange import import_peft, read_card, read_factors, read_prompt, read_trained
from prompttransfer.library import Library
from tools.fuzz.target import PART, Finding, Folder, Target, check_message, refuses


def _prompt(**metadata: str) -> bytes:
    return save({"prompt": torch.arange(6.0).view(2, 3)}, metadata or None)


def _prompt_seeds() -> list[bytes]:
    u, v, shared = torch.ones(2, 1), torch.ones(1, 3), torch.arange(6.0).view(2, 3)
    factors = {"prompt": shared, "shared": shared.clone(), "u": u, "v": v}
    instance = {
        "sources": torch.ones(2, 2, 3), "target": torch.ones(2, 3), "down": torch.ones(4, 3), "up": torch.ones(3, 4),
        "norm.weight": torch.ones(3), "norm.bias": torch.ones(3), "temperature": torch.tensor(1.0),
        "mask_padding": torch.tensor(True),
    }  # fmt: skip
    card = {"model": "demo", "score": "81.5", "choices": '["a", "b"]', "columns": '{"text": "t"}', "seed": "1"}
    return [_prompt(), _prompt(**card), save(factors, {"cut": "end"}), save(instance), _prompt(score="nan")]


_PROMPT_WORDS = [
    b'"F32"', b'"F64"', b'"BF16"', b'"F16"', b'"I64"', b'"BOOL"', b'"F8_E4M3"', b'"C64"', b'"F4"', b'"U16"',
    b'"prompt"', b'"shared"', b'"u"', b'"v"', b"[0,3]", b"[2,0]", b"[]", b"[6]", b"[1,2,3]", b"[0,24]", b"[0,0]",
    b"18446744073709551615", b'"__metadata__"', b'"score"', b'"nan"', b'"1e999"', b'"choices"', b'"[[[["',
    b'"scores"', b'"\\ud800"', b"\xff",
]  # fmt: skip


def _tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Read the float32 tensors of a safetensors file by its specification, without the library."""
    (size,) = struct.unpack("<Q", data[:8])
    head = json.loads(data[8 : 8 + size])
    tensors = {}
    for name, entry in head.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            raw = bytearray(data[8 + size + begin : 8 + size + end])
            flat = torch.frombuffer(raw, dtype=torch.float32) if raw else torch.empty(0)
            tensors[name] = flat.view(entry["shape"])
    return tensors


def check_prompt(data: bytes) -> bool:
    with Folder() as folder:
        path = folder / "p.safetensors"
        path.write_bytes(data)
        results: list[Any] = []
        refused = refuses(lambda: results.append(read_prompt(path)[0]), path.name)
        if not refused:
            exact = _tensors(data).get("prompt")
            if exact is not None and not torch.equal(results[0], exact):
                raise Finding(f"read {results[0]}, the file holds {exact}")
        for read in (read_factors, read_trained, read_card):
            refuses(lambda read=read: results.append(read(path)), path.name)
        for card in (one for one in results if hasattr(one, "metadata")):
            if type(card).of(card.metadata(), path) != card:
                raise Finding(f"the card {card!r} changes when it is written and read")
        return not refused


def _adapter_seeds() -> list[bytes]:
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2, "token_dim": 3}
    multi = config | {"peft_type": "MULTITASK_PROMPT_TUNING", "num_tasks": 2, "num_ranks": 1}
    seq = config | {"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 1, "base_model_name_or_path": "m"}
    shared = torch.arange(6.0).view(2, 3)
    one = save({"prompt_embeddings": shared})
    several = {"prefix_task_cols": torch.ones(2, 2, 1), "prefix_task_rows": torch.ones(2, 1, 3)}
    cards = json.dumps([{"task": "a"}, {"score": 1.5}]).encode()
    return [
        PART.join([json.dumps(config).encode(), b"", one]),
        PART.join([json.dumps(seq).encode(), b'[{"task": "a"}]', one]),
        PART.join([json.dumps(multi).encode(), cards, save({"prompt_embeddings": shared, **several})]),
    ]


_ADAPTER_WORDS = [
    b"num_virtual_tokens", b"token_dim", b"num_tasks", b"num_ranks", b"num_transformer_submodules", b"null", b"2.0",
    b'"2"', b"true", b"-1", b"1e999", b"NaN", b"[]", b"{}", b"peft_type", b"task_type", b'"MULTITASK_PROMPT_TUNING"',
    b'"base_model_name_or_path": 5', b"[" * 60, PART, *_PROMPT_WORDS,
]  # fmt: skip


def check_adapter(data: bytes) -> bool:
    config, cards, tensors = (*data.split(PART, 2), b"", b"")[:3]
    with Folder() as folder:
        (folder / "adapter_config.json").write_bytes(config)
        (folder / "adapter_model.safetensors").write_bytes(tensors)
        if cards:
            (folder / "prompt_cards.json").write_bytes(cards)
        imported: list[Any] = []
        if refuses(lambda: imported.extend(import_peft(folder)), folder.name):
            return False
        exact = _tensors(tensors)
        for task, one in enumerate(imported):
            want = exact.get("prompt_embeddings")
            if (
                one.factors is not None
                and want is not None
                and {"prefix_task_cols", "prefix_task_rows"} <= exact.keys()
            ):
                want = want * (exact["prefix_task_cols"][task] @ exact["prefix_task_rows"][task])
            if want is not None and not torch.allclose(one.prompt, want[: len(one.prompt)], equal_nan=True):
                raise Finding(f"read {one.prompt}, the adapter holds {want}")
            type(one.card).of(one.card.metadata(), folder)
        return True


def _library_seeds() -> list[bytes]:
    card = json.dumps({"task": "x", "score": 1.5, "choices": ["a", "b"], "init_hash": "ab"}).encode()
    return [PART.join([card, _prompt(init_hash="ab")]), PART.join([b"", _prompt()])]


def check_library(data: bytes) -> bool:
    """A library with any content can be opened and searched, and its problems are reported."""
    card, tensors = (*data.split(PART, 1), b"")[:2]
    with Folder() as folder:
        (folder / "a.safetensors").write_bytes(tensors)
        if card:
            (folder / "a.json").write_bytes(card)
        library = Library.open(folder)
        for problem in library.problems:
            check_message(ValueError(problem), ("a.safetensors", "a.json"))
        for name, entry in library.entries.items():
            of = torch.ones(entry.shape) if math.prod(entry.shape) < 1000 else torch.ones(2, 3)
            refuses(partial(library.similar, of, entry.card), f"{name}.safetensors")
        return bool(library.entries)


def targets() -> dict[str, Target]:
    return {
        "prompt": Target(check_prompt, _prompt_seeds(), _PROMPT_WORDS),
        "adapter": Target(check_adapter, _adapter_seeds(), _ADAPTER_WORDS),
        "library": Target(
            check_library, _library_seeds(), [*_ADAPTER_WORDS, b"state", b"shape", b"card", b"init_hash"]
        ),
    }
