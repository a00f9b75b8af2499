"""Metrics of free-text answers, one idea per file.

Names and checks need no library. A metric imports its library on use.
"""

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.scoring import (
    TEXT_METRICS,
    TextMetric,
    majority_text_score,
    missing,
    require,
    text_score,
)

__all__ = ["TEXT_METRICS", "References", "TextMetric", "majority_text_score", "missing", "require", "text_score"]
