"""Toy models and tasks on disk, for benchmarks of a whole run without downloads."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from prompttransfer.models import quiet_transformers

SPECIAL = ["<pad>", "<unk>", "</s>", "no", "yes"]
WORDS = [f"w{index}" for index in range(59)]


def write_model(folder: Path, family: str = "llama", hidden: int = 32, layers: int = 2) -> Path:
    """Write a model with random weights (seed 0) and a tokenizer for the words of `write_task`.

    Args:
        family: llama or t5.
    """
    torch.manual_seed(0)
    shared: dict[str, Any] = {"vocab_size": len(SPECIAL) + len(WORDS), "pad_token_id": 0, "eos_token_id": 2}
    if family == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(
                **shared,
                hidden_size=hidden,
                intermediate_size=2 * hidden,
                num_hidden_layers=layers,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=256,
                initializer_range=0.3,
            )
        )
    else:
        model = T5ForConditionalGeneration(
            T5Config(
                **shared,
                d_model=hidden,
                d_kv=hidden // 4,
                d_ff=2 * hidden,
                num_layers=layers,
                num_heads=4,
                decoder_start_token_id=0,
            )
        )
    with quiet_transformers():
        model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def write_task(path: Path, seed: int, rows: int) -> Path:
    """Write a CSV file of texts with the question whether they contain a certain word. Half of the answers are yes.
    Different seeds have no texts in common."""
    drawn = random.Random(seed)
    word, *others = drawn.sample(WORDS, len(WORDS))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(rows):
            text = drawn.choices(others, k=drawn.randint(6, 12))
            if row % 2:
                text[drawn.randrange(len(text))] = word
            writer.writerow([" ".join(text), ("no", "yes")[row % 2]])
    return path


def write_tasks(folder: Path, names: Sequence[str], rows: int, seed: int = 0) -> list[str]:
    """Write tasks to files NAME.csv; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [str(write_task(folder / f"{name}.csv", seed + place, rows)) for place, name in enumerate(names)]
