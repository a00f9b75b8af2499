"""SQuAD and four sets of MRQA 2019."""

from __future__ import annotations

from functools import partial

from prompttransfer.tasks.papers.fields import pad_punctuation, spans
from prompttransfer.tasks.papers.shared import QA, SOURCE, TARGET, THOUSAND
from prompttransfer.tasks.papers.spec import PaperTask, named

_qa = partial(
    PaperTask,
    config=None,
    inputs=named(pad_punctuation, question="question", context="context"),
    target=spans(),
    splits=THOUSAND,
    max_length=512,
    **QA,
)
# One table on the hub for all sets of MRQA; the column subset tells them apart.
_mrqa = partial(_qa, hub="mrqa-workshop/mrqa", **TARGET)

MRQA = (
    _qa("mrqa/squad", "questions about Wikipedia", "rajpurkar/squad", prefix="squad", **SOURCE),
    _mrqa("mrqa/nq", "questions to a search engine", prefix="nq", where=("subset", "NaturalQuestionsShort")),
    _mrqa("mrqa/hotpotqa", "questions over two articles", prefix="hotpotqa", where=("subset", "HotpotQA")),
    _mrqa("mrqa/searchqa", "quiz questions, web snippets", prefix="searchqa", where=("subset", "SearchQA")),
    _mrqa("mrqa/newsqa", "questions about news", prefix="newsqa", where=("subset", "NewsQA")),
)
