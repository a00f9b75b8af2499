"""The prompt that is kept is the best on validation rows, as trainings of every length find it one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_compare import Progress, config  # noqa: F401, a fixture
from tiny import toy_task

from prompttransfer import RunConfig
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import Evaluation, evaluate
from prompttransfer.prompts import MultitaskPrompt, SoftPrompt, initial_prompt
from prompttransfer.runs.compare import compare
from prompttransfer.runs.workbench import Workbench
from prompttransfer.training.plan import Plan
from prompttransfer.training.selection import Selection, mean_score
from prompttransfer.training.trainer import train

UPDATES = 7


def judged(backbone: Backbone, word: int = 3) -> EncodedTask:
    task = toy_task("goal", word, rows=80)
    return EncodedTask.of(replace(task, metric="accuracy", more_metrics=("macro-f1",)), backbone)


def plan(backbone: Backbone, task: EncodedTask, updates: int = UPDATES, selection: Selection | None = None) -> Plan:
    """Of constant rate: a shorter training is the start of a longer one."""
    batches = row_batches(len(task.train), 4, UPDATES, seed=1)[:updates]
    prompt = SoftPrompt(initial_prompt(backbone, 3))
    more = {"schedule": "constant_with_warmup", "selection": selection}
    return Plan(prompt, task_loss, task.train, batches, 1.0, **more)


def found_one_by_one(backbone: Backbone, task: EncodedTask, folder: Path, every: int) -> tuple[int, float, SoftPrompt]:
    """The first of the best prompts that trainings of each length end with."""
    best: tuple[int, float, SoftPrompt] | None = None
    for updates in [*range(every, UPDATES, every), UPDATES]:
        alone = plan(backbone, task, updates)
        train(backbone, alone, folder / str(updates))
        evaluation = evaluate(backbone, alone.prompt.composed(), task)
        score = (evaluation.score + evaluation.more["macro-f1"]) / 2
        if best is None or score > best[1]:
            best = (updates, score, alone.prompt)
    return best


def test_the_best_prompt_is_kept(backbone: Backbone, tmp_path: Path) -> None:
    task, every = judged(backbone), 2
    update, score, prompt = found_one_by_one(backbone, task, tmp_path, every)
    assert update < UPDATES, "the last prompt is the best one: this tells nothing"
    chosen = plan(backbone, task, selection=Selection([task], every, batch_size=7))
    log = train(backbone, chosen, tmp_path / "chosen")
    assert log.kept == (update, pytest.approx(score))
    assert torch.equal(chosen.prompt.prompt, prompt.prompt)
    assert log.updates == UPDATES and len(log.loss) == UPDATES


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [2, 6])
def test_an_interruption_changes_nothing(llama: Backbone, tmp_path: Path, stop: int) -> None:
    """The best prompt came before the checkpoint from which training resumes, after it, or not yet."""
    task = judged(llama)
    whole = plan(llama, task, selection=Selection([task], 1))
    want = train(llama, whole, tmp_path / "whole")
    seen = []

    def advance(*_: int, **__: float) -> None:
        seen.append(1)
        if len(seen) == stop:
            raise Stop

    first = plan(llama, task, selection=Selection([task], 1))
    with pytest.raises(Stop):
        train(llama, first, tmp_path / "cut", checkpoint_updates=3, advance=advance)
    again = plan(llama, task, selection=Selection([task], 1))
    assert train(llama, again, tmp_path / "cut", checkpoint_updates=3).kept == want.kept
    assert torch.equal(again.prompt.prompt, whole.prompt.prompt)


def test_prompts_of_a_group_are_judged_each_on_its_own_task(llama: Backbone) -> None:
    tasks = [judged(llama, 3), judged(llama, 5)]
    random = torch.Generator().manual_seed(0)
    u, v = torch.randn(2, 3, 1, generator=random), torch.randn(2, 1, llama.hidden_size, generator=random)
    prompt = MultitaskPrompt(initial_prompt(llama, 3), u=u, v=v)
    alone = [mean_score(task, evaluate(llama, prompt.composed(place), task)) for place, task in enumerate(tasks)]
    assert Selection(tasks, 1).score(llama, prompt) == pytest.approx(sum(alone) / 2)


def scored(metrics: tuple[str, ...], scores: list[float], llama: Backbone) -> float:
    task = replace(judged(llama), metrics=metrics)
    evaluation = Evaluation(scores[0], 0.0, False, 1, [0], dict(zip(metrics[1:], scores[1:], strict=True)))
    return mean_score(task, evaluation)


def test_metrics_of_other_scales_are_no_part_of_the_mean(llama: Backbone) -> None:
    assert scored(("accuracy", "f1"), [80.0, 60.0], llama) == 70.0
    assert scored(("bleu", "meteor", "ter"), [30.0, 0.4, 55.0], llama) == 30.0
    assert scored(("rouge-l", "rouge-1", "meteor"), [40.0, 50.0, 0.4], llama) == 45.0
    assert scored(("meteor", "bleu"), [0.4, 30.0], llama) == 0.4
    assert scored(("ter", "bleu"), [55.0, 30.0], llama) == -55.0


def test_a_run_chooses_on_validation_rows(config: RunConfig) -> None:  # noqa: F811
    config = config.model_copy(update={"select_updates": 2, "seeds": (1,), "methods": ("PT", "SPoT", "DTVG")})
    config = config.model_copy(update={"transfer_from": "all"})
    work = Workbench(config, Progress())
    target = work.context(1).targets[0]
    blue = work.tasks.targets["blue"]
    assert target.validation.test == EncodedTask.of(blue.on_validation(), work.backbone).test[: config.test_rows]
    assert len(target.validation.test) == config.test_rows and target.validation.validation is None
    progress = Progress()
    compare(config, progress)
    kept = [note for note in progress.notes if "kept the prompt of update" in note]
    # Every stage of one task: of the sources, and on each target PT, the own prompt of SPoT and DTVG, and what follows.
    stages = {note.split(": kept")[0] for note in kept}
    own = {f"{name}: {stage}" for name in ("blue", "goal") for stage in ("PT", "own prompt", "SPoT", "DTVG")}
    assert stages == {"source red", "source green"} | own


def test_a_run_without_validation_rows_cannot_choose(config: RunConfig) -> None:  # noqa: F811
    config = config.model_copy(update={"select_updates": 2, "evaluate_on": "validation"})
    with pytest.raises(ValueError, match=r"task '.*' has no validation rows, which select_updates"):
        compare(config, Progress())
