"""The data sets of the papers.

Sources: MPT (arXiv 2303.02861) and DTVG (arXiv 2503.18063) for the choice of sets, lengths and scores; the published
code of ATTEMPT for text formats and splits. What neither says is ours: the formats of the generation sets and of MPT's
extra sources, ARC being its challenge set, the rounds of ANLI taken together.
"""

from __future__ import annotations

from prompttransfer.tasks.papers.generation import NLG
from prompttransfer.tasks.papers.glue import GLUE, SUPERGLUE
from prompttransfer.tasks.papers.mrqa import MRQA
from prompttransfer.tasks.papers.others import EXTRA, OTHERS
from prompttransfer.tasks.papers.spec import PaperTask

PAPER_TASKS: dict[str, PaperTask] = {task.name: task for task in (*GLUE, *SUPERGLUE, *MRQA, *OTHERS, *NLG, *EXTRA)}
