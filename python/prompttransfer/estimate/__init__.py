"""Estimate what a run would do, need and lack, without loading weights: `prompttransfer validate`."""

from prompttransfer.estimate.explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
