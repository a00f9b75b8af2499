"""The model card of a prompt: what a hub shows, and what it searches by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from textwrap import indent
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from prompttransfer.interchange.card import Card
from prompttransfer.tasks import PAPER_TASKS
from prompttransfer.tasks.scales import scale_of
from prompttransfer.tasks.templates import fields_of

_BASELINES = {"zero_shot": "the model without a prompt (zero-shot)", "majority": "the most frequent answer (majority)"}


def model_card(repository: str, card: Card, adapter: Mapping[str, Any] | None) -> str:
    """README.md: metadata of the hub in YAML, then scores, text, answers, and how the prompt is loaded.

    `adapter` is the configuration of the PEFT adapter; None where there is none.
    """
    trained = f" with {_code(card.method)}" if card.method else ""
    task = f" on {_code(card.task)}" if card.task else ""
    parts = [
        f"---\n{_metadata(repository, card, adapter)}\n---",
        f"# {repository.partition('/')[2]}",
        f"A soft prompt for the frozen model {_code(card.model)}, trained{trained}{task}.",
        *_scores(card),
        *_wording(card),
        "## Use\n\nWith prompttransfer (`pip install 'promptkernels[transfer]'`):",
        _python(*_prompttransfer_lines(repository, card)),
        *([] if adapter is None else _peft(repository, card, adapter)),
        *([f"## Licence\n\n{_code(card.licence)}"] if card.licence else []),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(repository: str, card: Card, adapter: Mapping[str, Any] | None) -> str:
    paper = PAPER_TASKS.get(card.task)
    kind = "text-classification" if card.choices else "text-generation"
    results = []
    if card.score is not None and card.metric:
        results.append(
            EvalResult(
                task_type=kind,
                dataset_type=paper.hub if paper else card.task or "unknown",
                dataset_name=card.task or "unknown",
                dataset_config=paper.config if paper else None,
                metric_type=card.metric,
                metric_value=card.score,
            )
        )
    data = ModelCardData(
        base_model=card.model,
        library_name="prompttransfer" if adapter is None else "peft",
        tags=["prompttransfer", "prompt-tuning", "soft-prompt"],
        pipeline_tag=kind,
        license=card.licence.lower() or None,
        datasets=[paper.hub] if paper else None,
        metrics=[card.metric] if card.metric else None,
        model_name=repository.partition("/")[2],
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _scores(card: Card) -> list[str]:
    if card.score is None:
        return []
    scale = scale_of(card.metric)
    rows = [("this prompt", card.score)]
    rows += [(what, card.scores[name]) for name, what in _BASELINES.items() if name in card.scores]
    table = "\n".join(f"| {what} | {scale.text(score)} |" for what, score in rows)
    metric = [f"Metric: {_code(card.metric)}, on test rows."] if card.metric else []
    return ["## Scores", f"| | score |\n|---|---|\n{table}", *metric]


def _wording(card: Card) -> list[str]:
    if not card.template:
        return []
    answers = ", ".join(map(_code, card.choices)) or "free text"
    text = indent(card.template, "    ", lambda line: True)
    return ["## Text", "The model reads, with a row's fields in the braces:", text, f"Answers: {answers}."]


def _prompttransfer_lines(repository: str, card: Card) -> tuple[str, ...]:
    fields = fields_of(card.template) if card.template else ()
    options = "" if card.template else ', template="...", choices=("...", "...")'
    row = '"..."' if len(fields) < 2 else "{" + ", ".join(f'{json.dumps(name)}: "..."' for name in fields) + "}"
    return (
        "from prompttransfer import Predictor",
        f'predictor = Predictor.open("{repository}"{options})',
        f"print(predictor([{row}])[0].label)",
    )


def _peft(repository: str, card: Card, adapter: Mapping[str, Any]) -> list[str]:
    auto = "AutoModelForSeq2SeqLM" if adapter["task_type"] == "SEQ_2_SEQ_LM" else "AutoModelForCausalLM"
    parts = [
        "With PEFT, which leaves the wording of a text to you:",
        _python(
            "from peft import PeftModel",
            f"from transformers import {auto}",
            f'model = PeftModel.from_pretrained({auto}.from_pretrained("{card.model}"), "{repository}")',
        ),
    ]
    if adapter["peft_type"] == "MULTITASK_PROMPT_TUNING":
        parts.append("Calls need `task_ids`: a 0 for each row.")
    return parts


def _python(*lines: str) -> str:
    return "```python\n" + "\n".join(lines) + "\n```"


def _code(text: str) -> str:
    """Text of a card as inline code. It may come from anybody, so it can neither end the line nor begin markup."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
