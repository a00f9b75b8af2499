"""The examples, as they stand, on a tiny model and small tables; each prints what it promises."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transfer.tiny import byte_tokenizer, tiny_llama, toy_task

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
# MPT's own learning rate and such are the demo's: only sizes are small here.
SMALL = {"prompt_length": 3, "train_rows": 12, "source_updates": 3, "target_updates": 4, "max_length": 24}
SMALL |= {"batch_size": 4, "source_batch_size": 4, "test_rows": 10, "precision": "float32"}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def settings(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two sources and a target as tables, a cache and an output folder of the test's own."""
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    for word, name in enumerate(("red", "green", "goal")):
        rows = [row for split in (toy_task(name, word).train, toy_task(name, word).test) for row in split]
        lines = [f"{row['text']},{('no', 'yes')[row['label']]}" for row in rows]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    sources, targets = (str(tmp_path / "red.csv"), str(tmp_path / "green.csv")), (str(tmp_path / "goal.csv"),)
    return {**SMALL, "model": str(model), "sources": sources, "targets": targets, "output": tmp_path / "run"}


def main_of(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_every_example_is_short_and_tested() -> None:
    files = sorted(path.relative_to(EXAMPLES) for kind in ("*.py", "*.sh") for path in EXAMPLES.rglob(kind))
    runs = Path(__file__).parent / "transfer" / "runs"
    tested = "".join(path.read_text() for path in (Path(__file__), *runs.glob("*.py")))
    for file in files:
        assert f'"{file}"' in tested, f"no test runs {file}"
        assert 20 <= len((EXAMPLES / file).read_text().splitlines()) <= 80


def test_ops(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "ops.py"), run_name="__main__")
    told = capsys.readouterr().out
    # Sources 0 and 1 point where the target does, source 2 does not.
    assert "group of the target: [0, 1, 3]" in told
    mean, spread = map(float, re.search(r"mean (\S+) \(1\), spread (\S+) \(0.5\)", told).groups())
    assert abs(mean - 1) < 0.05 and abs(spread - 0.5) < 0.1
    assert "tasks with a gradient: [True, False, True, True]" in told


def test_peft_script(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    runpy.run_path(str(EXAMPLES / "peft_script.py"), run_name="__main__")
    losses = re.findall(r"loss (\S+) with PEFT, (\S+) with promptkernels", capsys.readouterr().out)
    assert len(losses) == 5
    for plain, fused in losses:
        assert float(plain) == pytest.approx(float(fused), abs=1e-4)


def test_mpt(settings: dict[str, Any]) -> None:
    scores = main_of("mpt.py")(**settings)
    assert set(scores) == {"PT", "MPT, ablation none", "MPT, ablation no-distillation"}
    assert all(0 <= score <= 100 for score in scores.values())


def test_bmtpt(settings: dict[str, Any]) -> None:
    particles = main_of("bmtpt.py")(**settings)
    assert len(particles["mean_distance"]) == SMALL["source_updates"]
    assert all(distance > 0 for _, distance in particles["mean_distance"])


def test_dtvg(settings: dict[str, Any]) -> None:
    groups = main_of("dtvg.py")(**settings)
    assert sum(groups.values()) == SMALL["target_updates"] / 2  # the other half trains the target's own vector
    assert set().union(*groups) <= {"red", "green"}


def test_custom_task(settings: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    given = {name: value for name, value in settings.items() if name not in ("targets", "max_length", "train_rows")}
    rows = main_of("custom_task/run.py")(**given)
    stars = [line.rsplit(",", 1)[1] for line in (EXAMPLES / "custom_task/reviews.csv").read_text().splitlines()[1:]]
    assert {row["skipped_rows"] for row in rows} == {stars.count("3")}
    assert {(row["method"], row["metric"]) for row in rows} == {("PT", "macro-f1"), ("SPoT", "macro-f1")}
    assert "Verdict:' -> " in capsys.readouterr().out


def test_custom_method(settings: dict[str, Any], methods_restored: None) -> None:
    rows = {row["method"]: row for row in main_of("custom_method.py")(**settings)}
    assert rows["soup"]["target_updates"] == rows["PT"]["target_updates"] == SMALL["target_updates"]
    weights = [float(weight) for weight in rows["soup"]["notes"].removeprefix("weights ").split(", ")]
    assert sum(weights) == pytest.approx(1, abs=0.02) and len(weights) == 2
    assert (settings["output"] / "prompts" / "soup" / "goal-seed42.safetensors").is_file()


def test_serve_vllm(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the engine; the real one reads prompts in tests/transfer/serving/test_vllm.py."""
    from transfer.engines import PlainEngine
    from transformers import AutoModelForCausalLM

    from prompttransfer import Predictor
    from prompttransfer.serving.vllm import VllmEngine

    model = AutoModelForCausalLM.from_pretrained(settings["model"])
    monkeypatch.setattr(VllmEngine, "start", lambda *prompts: PlainEngine(model))
    texts = ["w1 w2", "w30 w31 w32"]
    targets = (*settings["targets"], *settings["sources"][:1])
    labels = main_of("serve_vllm.py")(texts=texts, **settings | {"sources": (), "targets": targets})
    assert set(labels) == {"goal", "red"}
    for task, answers in labels.items():
        (file,) = (settings["output"] / "prompts" / "PT").glob(f"{task}-*.safetensors")
        assert answers == [one.label for one in Predictor.open(file)(texts)]


@pytest.mark.parametrize("nodes", [1, 3])
def test_multi_gpu(nodes: int) -> None:
    """What it hands to torchrun, which test_distributed.py starts for real."""
    from torch.distributed.run import get_args_parser

    environment = {**os.environ, "PYTHON": "echo", "PROCESSES": "2", "NODES": str(nodes), "ENDPOINT": "host:1"}
    command = [EXAMPLES / "multi_gpu.sh", "--limit", "8"]
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    assert words[:2] == ["-m", "torch.distributed.run"]
    asked = get_args_parser().parse_args(words[2:])
    assert (asked.nproc_per_node, asked.nnodes, asked.module) == ("2", str(nodes) if nodes > 1 else "1:1", True)
    assert (asked.standalone, asked.rdzv_endpoint) == ((True, "") if nodes == 1 else (False, "host:1"))
    assert [asked.training_script, *asked.training_script_args] == ["prompttransfer", "compare", "--limit", "8"]
