"""The README does what it says: its Python block, and its command on two tables and a model folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transfer.tiny import byte_tokenizer, tiny_llama, toy_task

pytestmark = pytest.mark.docs

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_operations() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names: dict = {}
    exec(block, names)
    start, prompts = names["start"], names["prompts"]
    vectors = (prompts - start).double().flatten(1)
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    torch.testing.assert_close(names["similarity"].double(), cosines, atol=1e-5, rtol=0)
    shapes = {name: tuple(names[name].shape) for name in ("merged", "phi", "prompts_of_rows")}
    assert shapes == {"merged": (100, 768), "phi": (6, 100, 768), "prompts_of_rows": (4, 100, 768)}
    assert names["group"][5]


@pytest.mark.slow
def test_own_tables_and_a_model_folder(tmp_path: Path) -> None:
    (command,) = re.findall(r"^prompttransfer compare --model (?:.*\\\n)*.*$", README, flags=re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    tokenizer = byte_tokenizer()
    for part in (tiny_llama(len(tokenizer)), tokenizer):
        part.save_pretrained(tmp_path / "path" / "to" / "model")
    for file, word in (("reviews.csv", 0), ("mine-train.csv", 1), ("mine-test.csv", 1)):
        task = toy_task("toy", word)
        rows = task.test if file == "mine-test.csv" else task.train
        lines = [f"{row['text']},{('bad', 'good')[row['label']]}" for row in rows]
        (tmp_path / file).write_text("\n".join(["review,stars", *lines]) + "\n")
    environment = os.environ | {"PROMPTTRANSFER_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs").iterdir()
    results = json.loads((run / "results.json").read_text())
    methods = ["PT", "MPT", "DTVG"]
    assert [row["method"] for row in results["rows"]] == methods * 3 and results["finished"]  # three seeds
    assert (run / "report.html").is_file() and (run / results["rows"][1]["prompt"]).is_file()
    assert all(name in done.stdout for name in ("PT", "MPT", "DTVG", "zero-shot", "majority"))
