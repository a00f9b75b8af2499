"""What several entries of the table share: split rules, roles in the papers, names of classes."""

from __future__ import annotations

from prompttransfer.tasks.papers.spec import Splits

HALVES = Splits("halves")
THOUSAND = Splits("thousand")
PUBLIC = Splits("own", validation=("validation",), test=("test",))

_BOTH = ("MPT", "DTVG")
SOURCE = {"source_of": _BOTH}
TARGET = {"target_of": _BOTH}
SOURCE_AND_TARGET = {"source_of": _BOTH, "target_of": _BOTH}
TWELVE = ("MPT, 12 sources",)

QA = {"metric": "squad-f1", "more_metrics": ("squad-em",)}
NLI = ("entailment", "neutral", "contradiction")
ENTAILMENT = ("entailment", "not_entailment")
FALSE_TRUE = ("False", "True")
SENTIMENT = ("negative", "positive")
