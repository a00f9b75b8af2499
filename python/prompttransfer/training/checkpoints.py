"""Which checkpoint a stage goes on from: the newest that is whole."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from prompttransfer.files.durable import Damaged, check_seal


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that is as it was written; None: there is none.

    One whose writing was interrupted has no hashes yet; it is removed as a damaged one is, and the one before counts.
    """
    while folder.is_dir() and (found := get_last_checkpoint(str(folder))):
        try:
            check_seal(Path(found))
        except Damaged:
            shutil.rmtree(found)
        else:
            return found
    return None
