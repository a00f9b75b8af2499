"""Setup of the training benchmark: a random model of a given size, rows of text, and PEFT + transformers.Trainer."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone, Batch, quiet_transformers
from prompttransfer.models.cuda_graphs import CudaGraphs
from prompttransfer.models.loading import narrow_products
from prompttransfer.models.padding import padded
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import PromptModule, SoftPrompt
from prompttransfer.training.plan import Plan
from prompttransfer.training.trainer import PromptTrainer

ANSWERS = (5, 6)
T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """A model, a prompt of `length` tokens, and batches of rows of about `text` tokens."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    length: int = 100
    batch: int = 16
    text: int = 24
    longest: int = 96


# Of SmolLM2-135M, Llama-3.2-1B and T5-small, and toys of the same shape.
FULL = {
    "llama": Sizes(576, 30, 9, 3, 1536, 49152),
    "llama-1b": Sizes(2048, 16, 32, 8, 8192, 128256),
    "t5": Sizes(512, 6, 8, 8, 2048, 32128),
}
SMALL = {
    "llama": Sizes(64, 4, 4, 2, 128, 512, length=20, batch=8, text=8, longest=24),
    "llama-1b": Sizes(64, 2, 8, 2, 256, 512, length=20, batch=8, text=8, longest=24),
    "t5": Sizes(64, 2, 4, 4, 128, 512, length=20, batch=8, text=8, longest=24),
}


def make_model(family: str, sizes: Sizes, device: str) -> nn.Module:
    """Llama or T5 with random weights (seed 0), float32, without dropout, as for a frozen model here."""
    torch.manual_seed(0)
    if family == "t5":
        config = T5Config(
            vocab_size=sizes.vocabulary,
            d_model=sizes.hidden,
            d_kv=sizes.hidden // sizes.heads,
            d_ff=sizes.intermediate,
            num_layers=sizes.layers,
            num_heads=sizes.heads,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=2,
        )
        return T5ForConditionalGeneration(config).to(device)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).to(device)


def make_backbone(model: nn.Module, precision: str) -> Backbone:
    words = {f"w{index}": index for index in range(8)}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "w1")), pad_token="w0")
    return Backbone(model, tokenizer, precision=precision)


def with_all_logits(backbone: Backbone) -> Backbone:
    """Computes the logits of every position, like a training loop that passes labels to the model."""
    changed = copy.copy(backbone)
    changed._keeps_logits = False
    return changed


def as_loaded(backbone: Backbone) -> Backbone:
    """The backbone as returned by `load_model`, with the weights of bfloat16 products in bfloat16; a copy."""
    if backbone.precision != "bfloat16":
        return backbone
    loaded = copy.deepcopy(backbone)
    narrow_products(loaded.model)
    loaded.model.set_attn_implementation(attentions(backbone)[1])
    return loaded


def start_prompt(backbone: Backbone, sizes: Sizes) -> Tensor:
    """Rows of the vocabulary (L, H), without padding, whose zero row has a gradient that normalisation blows up."""
    return backbone.embedding.weight[8 : 8 + sizes.length].detach().cpu()


def make_rows(sizes: Sizes, count: int, tasks: int = 1) -> list[EncodedRow]:
    """Rows with log-normally distributed lengths around `sizes.text`, as in short classification tasks."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.randn(count, generator=generator).mul(0.5).exp().mul(sizes.text)
    lengths = spread.round().long().clamp(4, sizes.longest).tolist()
    return [
        EncodedRow(
            tuple(torch.randint(8, sizes.vocabulary, (length,), generator=generator).tolist()),
            (ANSWERS[index % 2],),
            index % tasks,
        )
        for index, length in enumerate(lengths)
    ]


def make_batch(backbone: Backbone, rows: Sequence[EncodedRow]) -> Batch:
    """The rows as the Trainer's batch, on the model's device."""
    batch = backbone.collate([row.ids for row in rows], [row.answer for row in rows])
    batch["task_ids"] = torch.tensor([row.task for row in rows])
    return {name: tensor.to(backbone.device) for name, tensor in batch.items()}


def update(
    backbone: Backbone, prompt: PromptModule, objective: Callable, rows: list[EncodedRow], after: Callable | None = None
) -> Callable[[], None]:
    """One update as in the Trainer: forward, backward, clipping, AdamW."""
    prompt.to(backbone.device)
    batch = make_batch(backbone, rows)
    optimizer = torch.optim.AdamW(prompt.parameter_groups(0.01), weight_decay=1e-5)

    def run() -> None:
        objective(backbone, prompt, batch).backward()
        nn.utils.clip_grad_norm_(prompt.parameters(), 1.0)
        if after:
            after()
        optimizer.step()
        optimizer.zero_grad()

    return run


def make_peft(model: nn.Module, start: Tensor) -> nn.Module:
    """PEFT prompt tuning from a given start (L, H)."""
    seq2seq = model.config.is_encoder_decoder
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM,
        num_virtual_tokens=start.shape[0],
        num_transformer_submodules=1,  # before the encoder only
    )
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        wrapped.prompt_encoder["default"].embedding.weight.copy_(start)
    return wrapped


def as_inputs(rows: Sequence[Sequence[int]], seq2seq: bool) -> dict[str, Tensor]:
    """input_ids and attention_mask (B, S), padded on the left for a causal model."""
    ids, mask = padded(rows, 0, left=not seq2seq)
    return {"input_ids": ids, "attention_mask": mask}


def with_labels(rows: Sequence[EncodedRow], seq2seq: bool) -> dict[str, Tensor]:
    """A batch as in PEFT's examples: for a causal model, the answer comes after the text, which has no labels."""
    answers = torch.tensor([row.answer for row in rows])
    if seq2seq:
        return as_inputs([row.ids for row in rows], seq2seq) | {"labels": answers}
    batch = as_inputs([(*row.ids, *row.answer) for row in rows], seq2seq)
    labels = torch.full_like(batch["input_ids"], -100)
    labels[:, -answers.shape[1] :] = answers
    return batch | {"labels": labels}


SKIP = 2  # updates before the clock starts


class Stopwatch(TrainerCallback):
    """Seconds of all updates except the first SKIP."""

    def __init__(self) -> None:
        self.started = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if state.global_step == SKIP:
            self.started = time.perf_counter()
        self.seconds = time.perf_counter() - self.started


class PeftTrainer(Trainer):
    """A plain Trainer, except for the fixed order of its batches."""

    def __init__(
        self,
        model: nn.Module,
        rows: Sequence[EncodedRow],
        batches: Sequence[Sequence[int]],
        precision: str,
        folder: str,
    ) -> None:
        args = TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            learning_rate=0.01,
            bf16=precision == "bfloat16",
            save_strategy="no",
            disable_tqdm=True,
            report_to="none",
            remove_unused_columns=False,
            use_cpu=next(model.parameters()).device.type == "cpu",
            seed=0,
        )
        args._n_gpu = min(args.n_gpu, 1)
        self.batches = batches
        collate = partial(with_labels, seq2seq=model.config.is_encoder_decoder)
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=collate)
        self.remove_callback(PrinterCallback)

    def get_train_dataloader(self) -> DataLoader:
        loader = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)
        return self.accelerator.prepare(loader)


def train_seconds(make: Callable[[str], Trainer]) -> float:
    """Seconds of all updates except the first SKIP."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        trainer = make(folder)
        trainer.add_callback(watch)
        trainer.train()
    return watch.seconds


def ours(
    backbone: Backbone, start: Tensor, rows: list[EncodedRow], batches: list[list[int]], folder: str
) -> PromptTrainer:
    plan = Plan(SoftPrompt(start), task_loss, rows, batches, 0.01)
    return PromptTrainer(backbone, plan, Path(folder), checkpoint_updates=len(batches) + 1)


PLAIN, ONCE, PACKED = "prompt in every row", "prompt read once", "rows packed where that saves work"
REPLAYED = "prompt in every row, passes replayed as CUDA graphs"


def configured(attention: str, backbone: Backbone, layout: str, run: Callable[[], T]) -> T:
    """Run with an attention implementation, and a layout of prompts and rows: PLAIN, ONCE, PACKED or REPLAYED."""
    backbone.model.set_attn_implementation(attention)
    backbone.__dict__ |= {"reads_prompts_once": layout in (ONCE, PACKED), "packs_rows": layout == PACKED}
    backbone.graphs = graphs_of(backbone, attention) if layout == REPLAYED else None
    return run()


@cache
def graphs_of(backbone: Backbone, attention: str) -> CudaGraphs:
    return CudaGraphs()


def attentions(backbone: Backbone) -> tuple[str, str]:
    """Attention implementation of PEFT's model, which is transformers' default, and ours, chosen by `load_model`."""
    theirs = "sdpa" if backbone.model._supports_sdpa else "eager"  # not every model supports it
    return theirs, "eager" if backbone.device.type == "cpu" else theirs
