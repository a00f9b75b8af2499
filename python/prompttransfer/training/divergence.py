"""When the loss is no longer finite, keep the prompt of the last finite loss."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from prompttransfer.distributed import processes
from prompttransfer.interchange import write_tensors
from prompttransfer.interchange.files import TENSOR
from prompttransfer.prompts import PromptModule

FILE = "last-good.safetensors"


class Diverged(RuntimeError):
    """The loss, or the prompt, is no longer finite."""


class LastGood:
    """The prompt as of the last finite loss. An error names what the user may change (way_out)."""

    def __init__(self, prompt: PromptModule, folder: Path, way_out: str) -> None:
        self.prompt, self.path, self.way_out = prompt, folder / FILE, way_out
        self._read = self._good = (0, self._values())

    def reading(self, updates: int) -> None:
        """Record the prompt, whose loss after this many updates is read next."""
        self._read = (updates, self._values())

    def judge(self, loss: float, update: int) -> None:
        """Check a loss."""
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss} at update {update}")
        self._good = self._read

    def finish(self, updates: int) -> None:
        """Check the prompt after the last update, which no loss covers."""
        if not all(parameter.isfinite().all() for parameter in self.prompt.parameters()):
            raise self._diverged(f"the prompt is not finite after update {updates}")

    def _values(self) -> list[torch.Tensor]:
        return [parameter.detach().clone() for parameter in self.prompt.parameters() if parameter.requires_grad]

    def _diverged(self, what: str) -> Diverged:
        """Restore the last good prompt and write it to the folder."""
        updates, values = self._good
        trained = [parameter for parameter in self.prompt.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter, value in zip(trained, values, strict=True):
                parameter.copy_(value)
        if processes.is_main():
            if self.prompt.per_instance:
                tensors = dict(self.prompt.state_dict())
            else:
                composed = [self.prompt.composed(task) for task in range(self.prompt.count)]
                tensors = {TENSOR if not task else f"{TENSOR}.{task}": value for task, value in enumerate(composed)}
            write_tensors(self.path, tensors, {"updates": str(updates)})
        path = processes.broadcast(self.path)  # waits until the file is written
        return Diverged(f"{what}; {self.way_out}\nthe last good prompt, of update {updates}: {path}")
