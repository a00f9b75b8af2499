"""Keep the best prompt of a training on validation rows.

As in the published code of ATTEMPT and DTVG: the prompt is scored on the validation rows at regular intervals, and the
one with the highest mean over all metrics is kept. On a tie, the first is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.durable import replacing
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import Evaluation, evaluate
from prompttransfer.prompts import PromptModule
from prompttransfer.tasks.scales import PERCENT, scale_of

FILE = "best.safetensors"


@dataclass(frozen=True)
class Selection:
    """Where and how often to score a prompt in training.

    Args:
        tasks: tasks whose test rows are the validation rows; one per prompt of the module.
        updates: updates between two scores. The last update is scored too.
        batch_size: rows per forward.
    """

    tasks: Sequence[EncodedTask]
    updates: int
    batch_size: int = 32

    @property
    def key(self) -> list[Any]:
        """Everything the choice depends on, for the stage's key."""
        return [self.updates, *(task.digest for task in self.tasks)]

    def score(self, backbone: Backbone, prompt: PromptModule) -> float:
        """Mean over the tasks of the mean of their metrics."""
        scores = []
        for place, task in enumerate(self.tasks):
            judged = prompt if prompt.per_instance else prompt.composed(place)
            scores.append(mean_score(task, evaluate(backbone, judged, task, batch_size=self.batch_size)))
        return fmean(scores)


def mean_score(task: EncodedTask, evaluation: Evaluation) -> float:
    """Mean of a task's metrics in per cent. If the reported metric has another scale, that metric alone, negated if
    lower is better."""
    scale = scale_of(task.metric)
    if scale != PERCENT:
        return -evaluation.score if scale.lower_is_better else evaluation.score
    return fmean(
        [evaluation.score, *(score for metric, score in evaluation.more.items() if scale_of(metric) == PERCENT)]
    )


class Best:
    """The best state of a prompt so far, also kept in a file for a resumed training."""

    def __init__(self, selection: Selection, backbone: Backbone, prompt: PromptModule, folder: Path) -> None:
        self.selection, self.backbone, self.prompt = selection, backbone, prompt
        self.path = folder / FILE
        self.update, self.score, self._state = 0, float("-inf"), dict[str, Tensor]()

    def resume(self, update: int) -> None:
        """Resume a training after this many updates."""
        checkpoint = self._read() if processes.is_main() and self.path.is_file() else (0, float("-inf"), {})
        known, score, state = processes.broadcast(checkpoint)
        if 0 < known <= update:
            self.update, self.score, self._state = known, score, state

    def consider(self, update: int, last: bool) -> None:
        """Score the prompt, if it is due."""
        if not last and update % self.selection.updates:
            return
        score = self.selection.score(self.backbone, self.prompt)
        if score > self.score or not self._state:
            state = {name: value.detach().cpu().clone() for name, value in self.prompt.state_dict().items()}
            self.update, self.score, self._state = update, score, state
            if processes.is_main():
                with replacing(self.path, sync=False) as scratch:
                    save_file(state, scratch, {"update": str(update), "score": repr(score)})

    def restore(self) -> None:
        """Restore the best state to the prompt."""
        self.prompt.load_state_dict(self._state)

    def _read(self) -> tuple[int, float, dict[str, Tensor]]:
        with safe_open(self.path, "pt") as file:
            facts = file.metadata()
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        return int(facts["update"]), float(facts["score"]), state
