"""Executors of a run's jobs: this process, worker processes on this machine, or a Ray cluster.

The choice never changes a result. A job depends only on its settings and data, and its stages are in the store under a
hash of everything that they depend on.
"""

from __future__ import annotations

from prompttransfer.runs.executors.base import Executor, JobFailed, Session
from prompttransfer.runs.executors.in_process import InProcess
from prompttransfer.runs.executors.local import LocalWorkers

__all__ = ["Executor", "InProcess", "JobFailed", "LocalWorkers", "Session"]
