"""The frozen language model (frozen.py), soft prompts before its text (backbone.py), and loading (loading.py)."""

from prompttransfer.models.backbone import IGNORED, Backbone, Batch, Output, Prompt
from prompttransfer.models.frozen import PlacedInput, native_bfloat16
from prompttransfer.models.quiet import quiet_transformers

__all__ = ["IGNORED", "Backbone", "Batch", "Output", "PlacedInput", "Prompt", "native_bfloat16", "quiet_transformers"]
