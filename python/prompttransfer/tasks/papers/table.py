"""The data sets of the papers.

Sources: MPT (arXiv 2303.02861) and DTVG (arXiv 2503.18063) for the choice of sets, lengths and scores; the published
code of ATTEMPT for text formats and splits. What neither says is ours: the formats of the generation sets and of MPT's
extra sources, ARC being its challenge set, the rounds of ANLI taken together.
"""

from __future__ import annotations

from functools import partial

from prompttransfer.tasks.papers.fields import (
    ANSWER_KEY,
    CONCEPTS,
    LEXICALISATIONS,
    RECORD,
    SIMILARITIES,
    SIMILARITY,
    TRIPLES,
    WSC,
    each_answer,
    letters,
    options,
    pad_punctuation,
    spans,
    without_markup,
)
from prompttransfer.tasks.papers.spec import PaperTask, Splits, class_label, mapped, named

HALVES = Splits("halves")
THOUSAND = Splits("thousand")

_BOTH = ("MPT", "DTVG")
_SOURCE = {"source_of": _BOTH}
_TARGET = {"target_of": _BOTH}
_SOURCE_AND_TARGET = {"source_of": _BOTH, "target_of": _BOTH}
_EXTRA = {"source_of": ("MPT, 12 sources",)}

_QA = {"metric": "squad-f1", "more_metrics": ("squad-em",)}
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_FALSE_TRUE = ("False", "True")
_SENTIMENT = ("negative", "positive")

_glue = partial(PaperTask, hub="nyu-mll/glue")
_superglue = partial(PaperTask, hub="aps/super_glue")
# One table on the hub for all sets of MRQA; the column subset tells them apart.
_mrqa = partial(
    PaperTask,
    hub="mrqa-workshop/mrqa",
    config=None,
    inputs=named(pad_punctuation, question="question", context="context"),
    target=spans(),
    splits=THOUSAND,
    max_length=512,
    **_QA,
    **_TARGET,
)

_GLUE = (
    _glue(
        name="glue/mnli",
        content="entailment, several genres",
        config="mnli",
        prefix="mnli",
        inputs=named(premise="premise", hypothesis="hypothesis"),
        target=class_label(3),
        words=_NLI,
        splits=Splits("own", validation=("validation_mismatched",), test=("validation_matched",)),
        **_SOURCE_AND_TARGET,
    ),
    _glue(
        name="glue/qqp",
        content="questions with the same meaning",
        config="qqp",
        prefix="qqp",
        inputs=named(question1="question1", question2="question2"),
        target=class_label(2),
        words=("not_duplicate", "duplicate"),
        splits=THOUSAND,
        more_metrics=("f1",),
        may_be_empty=("question1", "question2"),
        **_SOURCE_AND_TARGET,
    ),
    _glue(
        name="glue/qnli",
        content="whether a sentence answers a question",
        config="qnli",
        prefix="qnli",
        inputs=named(question="question", sentence="sentence"),
        target=class_label(2),
        words=_ENTAILMENT,
        splits=THOUSAND,
        **_SOURCE_AND_TARGET,
    ),
    _glue(
        name="glue/sst2",
        content="sentiment of film reviews",
        config="sst2",
        prefix="sst2",
        inputs=named(sentence="sentence"),
        target=class_label(2),
        words=_SENTIMENT,
        splits=THOUSAND,
        **_SOURCE_AND_TARGET,
    ),
    _glue(
        name="glue/stsb",
        content="similarity of sentences, 0 to 5",
        config="stsb",
        prefix="stsb",
        inputs=named(sentence1="sentence1", sentence2="sentence2"),
        target=SIMILARITY,
        words=SIMILARITIES,
        scale=True,
        splits=HALVES,
        metric="pearson",
        more_metrics=("spearman",),
        **_TARGET,
    ),
    _glue(
        name="glue/mrpc",
        content="sentences with the same meaning",
        config="mrpc",
        prefix="mrpc",
        inputs=named(sentence1="sentence1", sentence2="sentence2"),
        target=class_label(2),
        words=("not_equivalent", "equivalent"),
        splits=HALVES,
        more_metrics=("f1",),
        **_TARGET,
    ),
    _glue(
        name="glue/rte",
        content="entailment, news",
        config="rte",
        prefix="rte",
        inputs=named(sentence1="sentence1", sentence2="sentence2"),
        target=class_label(2),
        words=_ENTAILMENT,
        splits=HALVES,
        **_TARGET,
    ),
    _glue(
        name="glue/cola",
        content="grammatical sentences",
        config="cola",
        prefix="cola",
        inputs=named(sentence="sentence"),
        target=class_label(2),
        words=("unacceptable", "acceptable"),
        splits=HALVES,
        metric="matthews",
        **_TARGET,
    ),
)

_SUPERGLUE = (
    _superglue(
        name="superglue/multirc",
        content="whether an answer to a question about a paragraph is right",
        config="multirc",
        prefix="superglue-multirc",
        inputs=named(without_markup, question="question", answer="answer", paragraph="paragraph"),
        target=class_label(2),
        words=_FALSE_TRUE,
        splits=HALVES,
        metric="f1",
        max_length=348,
        **_TARGET,
    ),
    _superglue(
        name="superglue/boolq",
        content="yes/no questions about a passage",
        config="boolq",
        prefix="superglue-boolq",
        inputs=named(question="question", passage="passage"),
        target=class_label(2),
        words=_FALSE_TRUE,
        splits=HALVES,
        **_TARGET,
    ),
    _superglue(
        name="superglue/wic",
        content="whether a word has the same meaning in two sentences",
        config="wic",
        prefix="superglue-wic",
        inputs=named(sentence1="sentence1", sentence2="sentence2", word="word"),
        target=class_label(2),
        words=_FALSE_TRUE,
        splits=HALVES,
        **_TARGET,
    ),
    _superglue(
        name="superglue/wsc",
        content="whether a pronoun (#) means a noun (*)",
        config="wsc.fixed",
        prefix="superglue-wsc.fixed",
        inputs=WSC,
        target=class_label(2),
        words=_FALSE_TRUE,
        splits=HALVES,
        **_TARGET,
    ),
    _superglue(
        name="superglue/cb",
        content="entailment, embedded clauses",
        config="cb",
        prefix="superglue-cb",
        inputs=named(premise="premise", hypothesis="hypothesis"),
        target=class_label(3),
        words=("entailment", "contradiction", "neutral"),
        splits=HALVES,
        more_metrics=("macro-f1",),
        **_TARGET,
    ),
    _superglue(
        name="superglue/record",
        content="the entity that completes a query about a passage",
        config="record",
        # The published text names the set twice.
        prefix="superglue-record record",
        inputs=RECORD,
        target=each_answer("answers"),
        splits=THOUSAND,
        **_QA,
        **_SOURCE,
    ),
)

_MRQA = (
    PaperTask(
        name="mrqa/squad",
        content="questions about Wikipedia",
        hub="rajpurkar/squad",
        config=None,
        prefix="squad",
        inputs=named(pad_punctuation, question="question", context="context"),
        target=spans(),
        splits=THOUSAND,
        max_length=512,
        **_QA,
        **_SOURCE,
    ),
    _mrqa(
        name="mrqa/nq", content="questions to a search engine", prefix="nq", where=("subset", "NaturalQuestionsShort")
    ),
    _mrqa("mrqa/hotpotqa", "questions over two articles", prefix="hotpotqa", where=("subset", "HotpotQA")),
    _mrqa(
        name="mrqa/searchqa", content="quiz questions, web snippets", prefix="searchqa", where=("subset", "SearchQA")
    ),
    _mrqa("mrqa/newsqa", "questions about news", prefix="newsqa", where=("subset", "NewsQA")),
)

_OTHERS = (
    PaperTask(
        name="others/winogrande",
        content="the option that fills a blank",
        hub="allenai/winogrande",
        config="winogrande_xl",
        prefix="winogrande",
        inputs=named(sentence="sentence", option0="option1", option1="option2"),
        target=mapped("answer", {"1": 0, "2": 1}),
        words=("first", "second"),
        splits=THOUSAND,
        source_of=("MPT, 12 sources",),
        **_TARGET,
    ),
    PaperTask(
        name="others/yelp",
        content="sentiment of reviews",
        hub="fancyzhx/yelp_polarity",
        config=None,
        prefix="yelp_polarity",
        inputs=named(sentence="text"),
        target=class_label(2),
        words=_SENTIMENT,
        splits=Splits("thousand", test=("test",)),
        max_train=100_000,
        **_TARGET,
    ),
    PaperTask(
        name="others/scitail",
        content="entailment, science questions",
        hub="allenai/scitail",
        config="snli_format",
        prefix="scitail",
        inputs=named(premise="sentence1", hypothesis="sentence2"),
        target=mapped("gold_label", {"entailment": 0, "neutral": 1}),
        words=("entailment", "neutral"),
        splits=HALVES,
        **_TARGET,
    ),
    PaperTask(
        name="others/paws",
        content="sentences with the same meaning and the same words",
        hub="google-research-datasets/paws",
        config="labeled_final",
        prefix="paws",
        inputs=named(sentence1="sentence1", sentence2="sentence2"),
        target=class_label(2),
        words=("different", "paraphrase"),
        splits=Splits("own", validation=("validation",), test=("test",)),
        **_TARGET,
    ),
)

_NLG = (
    PaperTask(
        name="nlg/e2e",
        content="descriptions of restaurants",
        hub="tuetschek/e2e_nlg",
        config="default",
        prefix="e2e_nlg",
        inputs=named(meaning_representation="meaning_representation"),
        target=each_answer("human_reference", merged=True),
        splits=Splits("own", validation=("validation",), test=("test",)),
        metric="bleu",
        more_metrics=("nist", "meteor", "rouge-l", "cider"),
        converted=True,
        **_TARGET,
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
        **_TARGET,
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

_MORE = (
    PaperTask(
        name="extra/agnews",
        content="topics of news",
        hub="fancyzhx/ag_news",
        config=None,
        prefix="ag_news",
        inputs=named(sentence="text"),
        target=class_label(4),
        words=("World", "Sports", "Business", "Technology"),
        splits=Splits("thousand", test=("test",)),
        **_EXTRA,
    ),
    PaperTask(
        name="extra/commonsenseqa",
        content="common sense, five options",
        hub="tau/commonsense_qa",
        config=None,
        prefix="commonsense_qa",
        inputs=options("question", 5),
        target=ANSWER_KEY,
        words=letters(5),
        splits=HALVES,
        **_EXTRA,
    ),
    PaperTask(
        name="extra/openbookqa",
        content="elementary science, four options",
        hub="allenai/openbookqa",
        config="main",
        prefix="openbookqa",
        inputs=options("question_stem", 4),
        target=ANSWER_KEY,
        words=letters(4),
        splits=Splits("own", validation=("validation",), test=("test",)),
        **_EXTRA,
    ),
    PaperTask(
        name="extra/arc",
        content="school science, three to five options",
        hub="allenai/ai2_arc",
        config="ARC-Challenge",
        prefix="ai2_arc",
        inputs=options("question", 5),
        target=ANSWER_KEY,
        words=letters(5),
        splits=Splits("own", validation=("validation",), test=("test",)),
        **_EXTRA,
    ),
    PaperTask(
        name="extra/anli",
        content="entailment, adversarial",
        hub="facebook/anli",
        config=None,
        prefix="anli",
        inputs=named(premise="premise", hypothesis="hypothesis"),
        target=class_label(3),
        words=_NLI,
        splits=Splits("thousand", train=("train_r1", "train_r2", "train_r3"), test=("dev_r1", "dev_r2", "dev_r3")),
        **_EXTRA,
    ),
)

PAPER_TASKS: dict[str, PaperTask] = {task.name: task for task in (*_GLUE, *_SUPERGLUE, *_MRQA, *_OTHERS, *_NLG, *_MORE)}
