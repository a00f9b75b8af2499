"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import completion
from prompttransfer.cli.support import default_of

# Headings of the help; options without one stand above them.
WHAT, DATA, MODEL, TRAINING = "What is compared", "Data", "Model and scoring", "Training"

TASKS = (
    "Names of demo tasks (`prompttransfer assets --tasks`) or of the papers' data sets (glue/mrpc), or files, "
    "separated by commas."
)
FILES = "A .csv, .tsv, .jsonl or .parquet file; `train.csv:test.csv` keeps the two apart; or a .yaml description."

Model = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        autocompletion=completion.model,
        help="demo, a hub id, or a local folder of a causal or seq2seq model.",
        show_default=default_of("model"),
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "--config",
        autocompletion=completion.recipe,
        metavar="NAME|FILE",
        help="Settings to start from: a recipe that is shipped, such as papers/mpt_t5_base, or a YAML or JSON file, "
        "such as config.json of a run. Options go before it.",
    ),
]
Assigned = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        autocompletion=completion.assignment,
        help="Any setting that has no option, by its name in a recipe, such as mpt.ablation=neither; repeat it for "
        "more.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1, help="At most so many training and test rows of a task, and updates of a stage: for a quick try."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=DATA, help="Column with the text in task files.", show_default=default_of("text_column")
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=DATA, help="Column with the label in task files.", show_default=default_of("label_column")
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        rich_help_panel=DATA,
        help="Folder with a copy of the papers' data sets, in the layout of the hub.",
        show_default="the hub itself",
    ),
]
Answers = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=DATA,
        autocompletion=completion.setting("answers"),
        help="digits or words: what tasks with a name are answered with.",
        show_default="the papers' digits, the demo's words",
    ),
]
BadRows = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=DATA,
        autocompletion=completion.setting("bad_rows"),
        help="error or skip: rows that do not fit their task.",
        show_default=default_of("bad_rows"),
    ),
]
Scoring = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        autocompletion=completion.setting("scoring"),
        help="auto, first-token, full or generate: how an answer is chosen.",
        show_default=default_of("scoring"),
    ),
]
PromptLength = Annotated[
    int | None, typer.Option(rich_help_panel=TRAINING, help="Prompt tokens.", show_default=default_of("prompt_length"))
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=TRAINING, help="Rows per update on target rows.", show_default=default_of("batch_size")
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=TRAINING, help="Peak AdamW rate of the prompt.", show_default=default_of("learning_rate")
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        autocompletion=completion.setting("precision"),
        help="auto, float32 or bfloat16: products of the frozen model; prompts stay float32.",
        show_default=default_of("precision"),
    ),
]
ShardModel = Annotated[
    bool | None,
    typer.Option(
        "--shard-model",
        rich_help_panel=MODEL,
        help="Spread the model's layers over the processes of torchrun or accelerate launch.",
        show_default=default_of("shard_model"),
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=MODEL, help="Text tokens kept of a row, the last ones.", show_default=default_of("max_length")
    ),
]
Variant = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=TRAINING,
        autocompletion=completion.setting("variant"),
        help="paper or code: which to follow where a method's published code differs from its paper.",
        show_default="each method's own",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
