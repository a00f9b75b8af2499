"""Jobs one after the other in this process, or in all processes of a launcher together."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.executors.base import Session
from prompttransfer.runs.workbench import Workbench
from prompttransfer.runs.worker import Worker
from prompttransfer.settings.run import RunConfig


class InProcess:
    """The default executor."""

    @contextmanager
    def open(self, config: RunConfig, progress: ProgressReporter) -> Iterator[Session]:
        frozen_before = gc.get_freeze_count() > 0
        try:
            yield Worker(Workbench(config, progress))
        finally:
            if not frozen_before:
                gc.unfreeze()
