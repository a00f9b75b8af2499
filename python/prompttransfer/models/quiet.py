"""Silence transformers: this project shows progress in one place only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

_QUIET = threading.Lock()
_quieted: list[tuple[int, bool]] = []  # one entry per open block: the state before the first one


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars and advice from transformers.

    Blocks of several threads may overlap; the last one to end restores the state before the first.
    """
    with _QUIET:
        _quieted.append(_quieted[0] if _quieted else (logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with _QUIET:
            verbosity, bars = _quieted.pop()
            if not _quieted:
                logging.set_verbosity(verbosity)
                if bars:
                    logging.enable_progress_bar()
