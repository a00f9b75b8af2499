"""The same seed on the same machine, the same bits: of every method, in two processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from recipes import context
from tiny import tiny_llama, tiny_tokenizer, toy_task

from prompttransfer.methods import METHODS
from prompttransfer.models import Backbone


def trained(folder: Path) -> dict[str, str]:
    """Hash of the prompt and of the losses of every method after a tiny training, nothing of it reused."""
    hashes = {}
    for name, method in METHODS.items():
        torch.manual_seed(
            len(hashes) + 100 * len(list(folder.iterdir()))
        )  # the result must not depend on the shared generator
        backbone = Backbone(tiny_llama(), tiny_tokenizer(), precision="float32", max_length=16)
        tasks = {task: toy_task(task, word) for word, task in enumerate(["red", "green", "blue", "goal"])}
        ctx, target = context(backbone, tasks, Path(tempfile.mkdtemp(dir=folder)))
        result = method.run(ctx, target)
        content = result.prompt.detach().contiguous().numpy().tobytes() + json.dumps(result.history["loss"]).encode()
        hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


@pytest.mark.slow
def test_every_method_in_two_processes(tmp_path: Path) -> None:
    first = trained(tmp_path)
    assert len(set(first.values())) > 5  # the hashes see a difference
    command = [sys.executable, __file__, str(tmp_path), str(torch.get_num_threads())]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}  # recipes.py, tiny.py
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == first


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[2]))
    print(json.dumps(trained(Path(sys.argv[1]))))
