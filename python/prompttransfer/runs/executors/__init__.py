"""Where the jobs of a run are done: in this process, in worker processes of this machine, or on a Ray cluster.

The choice never changes a result: a job depends on its settings and data alone, and its stages are found in the store
by a hash of everything that they depend on.
"""

from __future__ import annotations

from prompttransfer.runs.executors.base import Executor, JobFailed, Session
from prompttransfer.runs.executors.in_process import InProcess
from prompttransfer.runs.executors.local import LocalWorkers

__all__ = ["Executor", "InProcess", "JobFailed", "LocalWorkers", "Session"]
