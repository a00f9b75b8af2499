"""Training of a prompt on a frozen model: a thin subclass of transformers.Trainer.

Differences from a plain Trainer: the batches are fixed (so that every method sees the same rows, and a resumed run
continues with the right ones), checkpoints have only the prompt's tensors, and the gradient can be changed before the
step (SVGD). Several processes share every batch, see `distributed.shares`, and the main one writes the checkpoints.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from prompttransfer.distributed import processes
from prompttransfer.distributed.shares import counted
from prompttransfer.files.durable import Damaged, check_seal, seal
from prompttransfer.models import Backbone, Batch, quiet_transformers
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import PromptModule
from prompttransfer.training.divergence import LastGood
from prompttransfer.training.loggers import LoggedRun, logging_to
from prompttransfer.training.plan import Objective, Plan, TrainingLog, rate_factor
from prompttransfer.training.selection import Best


def train(
    backbone: Backbone,
    plan: Plan,
    folder: Path,
    *,
    checkpoint_updates: int = 10,
    advance: Callable[..., None] | None = None,
    run: LoggedRun | None = None,
) -> TrainingLog:
    """Train plan.prompt in place. Resumes from the last checkpoint in folder, if there is one.

    Args:
        folder: folder for checkpoints; the caller deletes it once the result is saved.
        advance: called with 1 and loss=... after every update.
        run: where the curve is logged as well; none: nowhere.

    Raises:
        Diverged: the loss or the prompt is no longer finite. The last good prompt is restored to plan.prompt and
            written to the folder.
    """
    processes.start()
    with quiet_transformers(), _checkpoint_of_all(folder) as checkpoint, logging_to(run) as loggers:
        trainer = PromptTrainer(backbone, plan, folder, checkpoint_updates, advance, run, loggers)
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.good.finish(len(plan.batches))
        if trainer.best:
            trainer.best.restore()
    history = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    examples = sum(map(len, plan.batches))
    kept = (trainer.best.update, trainer.best.score) if trainer.best else None
    return TrainingLog(len(plan.batches), examples, trainer.seconds, history, kept)


def last_checkpoint(folder: Path) -> str | None:
    """The newest undamaged checkpoint, or None.

    A checkpoint whose writing was interrupted has no hashes. Like a damaged one, it is deleted, and the one before it
    is used.
    """
    while folder.is_dir() and (checkpoint := get_last_checkpoint(str(folder))):
        try:
            check_seal(Path(checkpoint))
        except Damaged:
            shutil.rmtree(checkpoint)
        else:
            return checkpoint
    return None


@contextmanager
def _checkpoint_of_all(folder: Path) -> Iterator[str | None]:
    """The main process's newest checkpoint. Other processes, which may not see its folder, get a copy."""
    checkpoint = last_checkpoint(folder) if processes.is_main() else None
    if processes.count() == 1:
        yield checkpoint
        return
    files = processes.broadcast(
        {path.name: path.read_bytes() for path in Path(checkpoint).iterdir()} if checkpoint else None
    )
    if files is None or processes.is_main():
        yield checkpoint
        return
    with tempfile.TemporaryDirectory() as copy:
        for name, content in files.items():
            (Path(copy) / name).write_bytes(content)
        yield copy


class PromptedModel(nn.Module):
    """The Trainer's model: batch in, loss out. Only trained modules are part of it, and so synchronized."""

    def __init__(self, backbone: Backbone, prompt: PromptModule, objective: Objective) -> None:
        super().__init__()
        self.trained = nn.ParameterList(parameter for parameter in prompt.parameters() if parameter.requires_grad)
        self.loss = partial(objective, backbone, prompt)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task_ids: Tensor,
        counted_rows: Tensor | None = None,
    ) -> Tensor:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "task_ids": task_ids}
        with counted(counted_rows):
            return self.loss(batch)


class PromptTrainer(Trainer):
    """The Trainer of prompts; see the module docstring."""

    def __init__(
        self,
        backbone: Backbone,
        plan: Plan,
        folder: Path,
        checkpoint_updates: int = 10,
        advance: Callable[..., None] | None = None,
        run: LoggedRun | None = None,
        loggers: Sequence[TrainerCallback] = (),
    ) -> None:
        updates = len(plan.batches)
        args = TrainingArguments(
            output_dir=str(folder),
            max_steps=updates,
            learning_rate=plan.learning_rate,
            weight_decay=plan.weight_decay,
            max_grad_norm=plan.max_grad_norm,
            save_strategy="steps",
            save_steps=checkpoint_updates,
            save_total_limit=2,  # the one before serves while the last is written, or when it is damaged
            # A log entry reads the loss from the device; a GPU need not wait for that at every update.
            logging_steps=1 if backbone.device.type == "cpu" else max(1, updates // 100),
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to="none",  # `loggers` are callbacks
            **({"run_name": run.name, "project": run.group} if run else {}),
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=backbone.device.type == "cpu",
            ddp_find_unused_parameters=False,
        )
        args._n_gpu = min(args.n_gpu, 1)  # DataParallel would copy the frozen model at every step
        self.plan = plan
        self.backbone = backbone
        self.seconds = 0.0
        model = PromptedModel(backbone, plan.prompt.to(backbone.device), plan.objective)
        way_out = f"lower the learning rate (now {plan.learning_rate}) or use precision float32"
        self.good = LastGood(plan.prompt, folder, way_out)
        self.best = Best(plan.selection, backbone, plan.prompt, folder) if plan.selection else None
        groups = plan.groups or plan.prompt.parameter_groups(plan.learning_rate)
        optimizer = torch.optim.AdamW(groups, lr=plan.learning_rate, weight_decay=plan.weight_decay)
        factor = rate_factor(plan.schedule, plan.warmup_updates, plan.horizon or updates)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: factor(plan.offset + update))
        super().__init__(
            model=model,
            args=args,
            train_dataset=plan.rows,
            data_collator=self._collate,
            optimizers=(optimizer, schedule),
            callbacks=[*loggers, _Hooks(self, advance)],  # a loss that stops the training is logged
        )
        self.remove_callback(PrinterCallback)

    def _collate(self, rows: Sequence[EncodedRow]) -> Batch:
        # All processes take part in every update: one without a row reads some row that does not count.
        read = rows or self.plan.rows[:1]
        batch = self.backbone.collate([row.ids for row in read], [row.answer for row in read])
        batch["task_ids"] = torch.tensor([row.task for row in read])
        if processes.count() > 1:
            batch["counted_rows"] = torch.tensor(float(bool(rows)))
        return batch

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate, which would give every process other batches in place of a part of each.
        plan = self.plan
        batches = plan.batches if plan.whole_batches else list(map(processes.mine, plan.batches))
        return DataLoader(plan.rows, batch_sampler=batches, collate_fn=self._collate)

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Tensor | None = None) -> Tensor:
        if self.plan.dropout is None:
            return super().training_step(model, inputs, num_items_in_batch)
        # Until after the backward pass: layers that are computed again there have to drop the same.
        with self.backbone.dropping(self.plan.dropout, self.state.global_step):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        return model(**inputs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            # Not brought to the disk, which would cost more than small updates do: the one before serves in need.
            seal(Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", sync=False)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:  # another process than the main one, which holds the same
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        prompt = self.plan.prompt
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in prompt.state_dict().items()},
            folder / "prompt.safetensors",
        )
        (folder / "history.json").write_text(json.dumps({"seconds": self.seconds, "prompt": prompt.history()}))

    def _save_rng_state(self, output_dir: str) -> None:
        if self.args.should_save:
            super()._save_rng_state(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        self.plan.prompt.load_state_dict(load_file(folder / "prompt.safetensors"))
        history = json.loads((folder / "history.json").read_text())
        self.seconds = history["seconds"]
        self.plan.prompt.restore_history(history["prompt"])


class _Hooks(TrainerCallback):
    """Progress, time, the gradient hook, and a stop at a loss that is not finite."""

    def __init__(self, trainer: PromptTrainer, advance: Callable[..., None] | None) -> None:
        self.trainer = trainer
        self.advance = advance
        self.clock = 0.0
        self.loss = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.best:
            self.trainer.best.resume(state.global_step)
        self.clock = time.perf_counter()
        if self.advance and state.global_step:
            self.advance(state.global_step)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (state.global_step + 1) % args.logging_steps == 0:
            self.trainer.good.reading(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.trainer.plan.before_step:
            self.trainer.plan.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now = time.perf_counter()
        self.trainer.seconds += now - self.clock
        if self.trainer.best:
            self.trainer.best.consider(state.global_step, last=state.global_step == state.max_steps)
        self.clock = time.perf_counter()
        if self.advance:
            self.advance(1, **({} if math.isnan(self.loss) else {"loss": self.loss}))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.loss = float(logs["loss"])
            self.trainer.good.judge(self.loss, state.global_step)
