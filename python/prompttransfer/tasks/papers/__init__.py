"""The data sets of the papers, with their texts, answers, splits and scores."""

from prompttransfer.tasks.papers.loading import load_paper
from prompttransfer.tasks.papers.table import PAPER_TASKS, describe

__all__ = ["PAPER_TASKS", "describe", "load_paper"]
