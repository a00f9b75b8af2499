"""Every recipe of the papers from its first stage to its last, on tiny models and invented rows of the real schemas.

One target of every kind is kept: a choice, a number, a question, text. test_paper_tasks loads all of them.
With RECIPE_ROWS=32 in the environment every recipe runs with all its targets, and --limit 32: minutes for each.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hub_fixtures import write_hub
from tiny import byte_tokenizer, tiny_llama, tiny_t5
from typer.testing import CliRunner

from prompttransfer.cli import app
from prompttransfer.settings.recipes import read_recipe, recipe_names

PAPERS = [name for name in recipe_names() if name.startswith("papers/")]
TARGETS = ["superglue/cb", "superglue/wic", "glue/stsb", "mrqa/nq", "nlg/e2e"]
ROWS = int(os.environ.get("RECIPE_ROWS", "0"))
LIMIT = ROWS or 2


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    write_hub(folder, rows=max(12, 5 * ROWS // 2))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    tokenizer = byte_tokenizer()
    for name, make in (("t5", tiny_t5), ("llama", tiny_llama)):
        folders[name] = tmp_path_factory.mktemp(name)
        make(len(tokenizer)).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_of_a_paper_runs_to_its_end(
    name: str, hub: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    model = models["llama" if "llama" in name else "t5"]
    recipe = read_recipe(name).settings
    targets = [target for target in recipe["targets"] if ROWS or target in TARGETS]
    options = [
        "--limit",
        str(LIMIT),
        "--model",
        str(model),
        "--data-dir",
        str(hub),
        "--output",
        str(tmp_path / "run"),
        "-q",
    ]
    options += ["--targets", ",".join(targets), "--seeds", "42"]
    result = CliRunner().invoke(app, ["compare", "--recipe", name, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["finished"] and targets
    cells = {(row["method"], row["target"]) for row in results["rows"]}
    assert cells == {(method, target.replace("/", "-")) for method in recipe["methods"] for target in targets}
    for row in results["rows"]:
        # DTVG's own stage on the target comes on top.
        assert 0 < row["target_updates"] <= 2 * LIMIT
        assert row["train_rows"] <= LIMIT and 0 < row["test_rows"] <= LIMIT
        assert row["scoring"] == "generate"
    assert (tmp_path / "run" / "report.html").is_file()
