"""Prompts of several tasks in one vLLM: trained here, then answered together, in this process or by a server.

pip install vllm && python examples/serve_vllm.py
vllm serve MODEL --enable-prompt-embeds & python examples/serve_vllm.py http://localhost:8000
"""

import sys
from pathlib import Path

from prompttransfer import Progress, RunConfig, compare
from prompttransfer.serving.requests import ServedPrompt, answer
from prompttransfer.serving.vllm import VllmEngine, VllmServer

TEXTS = ["Arrived broken, and nobody answers.", "Works as described, would buy again."]


def main(url: str = "", texts: list[str] = TEXTS, **changes: object) -> dict[str, list[str]]:
    """The labels of each task; changes: other settings than these."""
    settings = {"targets": ("amazon", "nyt"), "methods": ("PT",), "seeds": (42,), "output": Path("runs/serve")}
    with Progress() as progress:
        folder = compare(RunConfig(**settings | changes), progress)

    # Of the model, only the tokenizer and the table of input embeddings are read here.
    prompts = [ServedPrompt.open(file) for file in sorted((folder / "prompts" / "PT").glob("*.safetensors"))]
    engine = VllmServer(url) if url else VllmEngine.start(*prompts)

    labels = {}
    for served, answers in zip(prompts, answer(engine, [(served, texts) for served in prompts]), strict=True):
        labels[served.card.task] = [one.label for one in answers]
        for text, one in zip(texts, answers, strict=True):
            print(f"{served.card.task}: {one.label} ({100 * one.scores[one.label]:.0f} %): {text}")
    return labels


if __name__ == "__main__":  # vLLM imports this file again in a process of its own
    main(*sys.argv[1:2])
