"""Sets of text generation."""

from __future__ import annotations

from prompttransfer.tasks.papers.fields import CONCEPTS, LEXICALISATIONS, TRIPLES, each_answer
from prompttransfer.tasks.papers.shared import PUBLIC, TARGET, THOUSAND
from prompttransfer.tasks.papers.spec import PaperTask, Splits, named

NLG = (
    PaperTask(
        name="nlg/e2e",
        content="descriptions of restaurants",
        hub="tuetschek/e2e_nlg",
        config="default",
        prefix="e2e_nlg",
        inputs=named(meaning_representation="meaning_representation"),
        target=each_answer("human_reference", merged=True),
        splits=PUBLIC,
        metric="bleu",
        more_metrics=("nist", "meteor", "rouge-l", "cider"),
        converted=True,
        **TARGET,
    ),
    PaperTask(
        name="nlg/webnlg",
        content="texts of DBpedia triples",
        hub="webnlg-challenge/web_nlg",
        config="webnlg_challenge_2017",
        prefix="web_nlg",
        inputs=TRIPLES,
        target=LEXICALISATIONS,
        splits=Splits("own", validation=("dev",), test=("test",)),
        metric="bleu",
        more_metrics=("meteor", "ter"),
        converted=True,
        **TARGET,
    ),
    PaperTask(
        name="nlg/commongen",
        content="a sentence with given words",
        hub="allenai/common_gen",
        config=None,
        prefix="common_gen",
        inputs=CONCEPTS,
        target=each_answer("target", merged=True),
        splits=THOUSAND,
        metric="rouge-l",
        more_metrics=("rouge-1", "rouge-2", "bleu", "meteor"),
        target_of=("DTVG",),
    ),
)
