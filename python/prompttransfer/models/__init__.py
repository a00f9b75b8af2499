"""A frozen language model that reads a soft prompt: what it is (backbone.py), how it gets into memory (loading.py)."""

from prompttransfer.models.backbone import (
    IGNORED,
    Backbone,
    Batch,
    Output,
    PlacedInput,
    Prompt,
    native_bfloat16,
    quiet_transformers,
)

__all__ = ["IGNORED", "Backbone", "Batch", "Output", "PlacedInput", "Prompt", "native_bfloat16", "quiet_transformers"]
