"""What a run of some settings would do, need and lack, without loading weights: `prompttransfer validate`."""

from prompttransfer.estimate.explanation import Explanation, explain
from prompttransfer.estimate.terminal import print_explanation

__all__ = ["Explanation", "explain", "print_explanation"]
