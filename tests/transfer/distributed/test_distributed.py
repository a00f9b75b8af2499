"""Several processes of one launcher give the result of one: every method, at 2 and 4 processes, gloo on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed import (
    everything,
    interrupted,
    sharded,
    soft,
    start_processes,
    svgd,
    trained_and_asked,
)
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny_llama, tiny_t5, toy_task

from prompttransfer import RunConfig
from prompttransfer.methods import METHODS
from prompttransfer.models.loading import load_model
from prompttransfer.runs.compare import compare

# In one process of pytest, which computes the expected results once.
pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.xdist_group("distributed")]

COUNTS = (2, 4)
# Rounding differences, because means over different parts of a batch are summed in a different order.
NEAR = {"rtol": 0.0, "atol": 1e-5}
LOOSE = {"rtol": 0.0, "atol": 1e-3}


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models and three tables."""
    folder = tmp_path_factory.mktemp("assets")
    tokenizer = byte_tokenizer()
    for name, model in (("llama", tiny_llama(len(tokenizer))), ("t5", tiny_t5(len(tokenizer)))):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for word, name in enumerate(("red", "green", "goal")):
        rows = [row for split in (toy_task(name, word).train, toy_task(name, word).test) for row in split]
        lines = [f"{row['text']},{('no', 'yes')[row['label']]}" for row in rows]
        (folder / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def configs(assets: Path) -> dict[str, RunConfig]:
    """A run of every method, and settings of methods that it leaves out."""
    # Answers of two and three tokens; batches that no number of processes divides, or with fewer rows than processes.
    common: dict[str, Any] = {
        "model": str(assets / "llama"),
        "sources": tuple(str(assets / f"{name}.csv") for name in ("red", "green")),
        "targets": (str(assets / "goal.csv"),),
        "scoring": "full",
        "prompt_length": 3,
        "train_rows": 12,
        "test_rows": 10,
        "source_updates": 2,
        "target_updates": 2,
        "max_length": 24,
        "batch_size": 3,
        "source_batch_size": 5,
        "eval_batch_size": 4,
        "precision": "float32",
        "output": assets,
        "transfer_from": "all",
    }
    bmtpt = {"particles": 3, "rows": 3, "source_prior": "gaussian", "aggregation": "best", "prior": "mixture"}
    every = RunConfig(
        **common, methods=tuple(METHODS), mpt={"teacher_cache": "always", "temperature_squared": True}, bmtpt=bmtpt
    )
    other = RunConfig(
        **common,
        methods=("MPT", "BMTPT"),
        mpt={"ablation": "prompt-mse"},
        bmtpt={"parallel": "particles", "particles": 3, "rows": 3},
        select_updates=2,
    )
    return {"every method": every, "other settings": other}


@pytest.fixture(scope="module")
def alone(assets: Path, configs: dict[str, RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in this one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name, config in configs.items():
        compare(config.model_copy(update={"output": folder / name, "cache": folder / "cache"}))
    return folder


@pytest.fixture(scope="module", params=COUNTS)
def together(
    request: pytest.FixtureRequest,
    assets: Path,
    configs: dict[str, RunConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp(f"processes{request.param}")
    start_processes(request.param, everything, configs, assets / "llama", folder)
    return folder


def numbers(content: Any) -> tuple[list[float], list[Any]]:
    """All numbers in nested JSON values, and all other values."""
    split: tuple[list[float], list[Any]] = ([], [])
    for value in content.values() if isinstance(content, dict) else content:
        if isinstance(value, dict | list):
            for mine, inner in zip(split, numbers(value), strict=True):
                mine.extend(inner)
        else:
            split[not isinstance(value, float)].append(value)
    return split


@pytest.mark.parametrize("run", ["every method", "other settings"])
def test_every_method_gives_the_result_of_one_process(alone: Path, together: Path, run: str) -> None:
    want, got = alone / run, together / run / "rank0" / "run"
    results, expected = (json.loads((folder / "results.json").read_text()) for folder in (got, want))
    for kind in ("rows", "sources"):
        timeless = [[row | {"seconds": 0, "prompt": 0} for row in each[kind]] for each in (results, expected)]
        assert timeless[0] == timeless[1]
    histories = sorted(path.name for path in (want / "history").iterdir())
    assert len(histories) == len(expected["rows"])
    for name in histories:
        curves = [numbers(json.loads((folder / "history" / name).read_text())) for folder in (got, want)]
        assert curves[0][1] == curves[1][1], name
        torch.testing.assert_close(torch.tensor(curves[0][0]), torch.tensor(curves[1][0]), **NEAR, msg=name)
    prompts = sorted(path.relative_to(want) for path in want.rglob("*.safetensors"))
    assert prompts
    for path in prompts:
        trained, wanted = load_file(got / path), load_file(want / path)
        # AdamW divides a gradient by its size, so where one is nearly zero rounding decides, as in ATTEMPT's attention;
        # the prompts that it makes are compared as the others are.
        torch.testing.assert_close(trained, wanted, **(LOOSE if path.stem.endswith("-module") else NEAR))


def test_the_main_process_alone_writes(together: Path) -> None:
    for run in ("every method", "other settings"):
        others = [folder for folder in (together / run).iterdir() if folder.name != "rank0"]
        assert others
        for folder in others:
            assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("parallel", ["rows", "particles"])
def test_svgd_turns_the_same_way_to_the_bit_in_every_process(
    assets: Path, together: Path, tmp_path: Path, parallel: str
) -> None:
    results = [torch.load(path)[parallel] for path in sorted((together / "trainings").glob("rank*/results.pt"))]
    losses, directions, particles = results[0]
    for other in results[1:]:
        assert other[0] == losses
        assert torch.equal(other[1], directions) and torch.equal(other[2], particles)
    backbone = load_model(assets / "llama", precision="float32", max_length=16)
    want = svgd(backbone, tmp_path, "rows")
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(want[0]), **NEAR)
    torch.testing.assert_close(particles, want[2], **NEAR)
    torch.testing.assert_close(directions, want[1], rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_goes_on_in_all_processes(assets: Path, together: Path, tmp_path: Path) -> None:
    """Only the main process has a checkpoint: the others see no folder of it."""
    results = [torch.load(path) for path in sorted((together / "trainings").glob("rank*/results.pt"))]
    backbone = load_model(assets / "llama", precision="float32", max_length=16)
    loss, prompt = interrupted(backbone, tmp_path)
    for place, result in enumerate(results):
        torch.testing.assert_close(torch.tensor(result["interrupted"][0]), torch.tensor(loss), **NEAR)
        torch.testing.assert_close(result["interrupted"][1], prompt, **NEAR)
        assert torch.equal(result["interrupted"][1], results[0]["interrupted"][1])
        assert bool(result["checkpoints"]) is (place == 0)
    assert (prompt - soft(backbone).prompt).abs().max() > 0.01


def test_a_diverged_loss_stops_all_processes(together: Path) -> None:
    results = [torch.load(path) for path in (together / "trainings").glob("rank*/results.pt")]
    assert len(results) > 1 and all(result["diverged"] for result in results)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have names in /proc only")
def test_no_thread_of_the_group_is_left_to_abort_a_process_that_ends(together: Path) -> None:
    threads = [torch.load(path) for path in (together / "trainings").glob("rank*/threads.pt")]
    assert len(threads) > 1
    assert not [name for names in threads for name in names if "gloo" in name]


def test_a_sharded_model_trains_and_answers_like_a_whole_one(assets: Path, tmp_path: Path) -> None:
    models = {assets / "llama": False, assets / "t5": True}
    start_processes(2, sharded, models, assets / "goal.csv", tmp_path)
    for model in models:
        backbone = load_model(model, precision="float32")
        want = trained_and_asked(backbone, assets / "goal.csv", tmp_path / "alone" / model.name)
        whole = sum(weight.numel() for weight in backbone.model.parameters())
        # Embeddings and output layer, which may be one, stay whole; so do the last norms.
        both = whole + sum(weight.numel() for weight in {backbone.embedding.weight, backbone.model.lm_head.weight})
        kept = 0
        for rank in range(2):
            got = torch.load(tmp_path / f"rank{rank}" / f"{model.name}.pt")
            kept += got.pop("kept")
            torch.testing.assert_close(torch.tensor(got.pop("loss")), torch.tensor(want["loss"]), **NEAR)
            torch.testing.assert_close(got.pop("prompt"), want["prompt"], **NEAR)
            assert got == {scoring: want[scoring] for scoring in got} and len(got) == 3
        assert both <= kept <= both + 64


def launch(*arguments: object, folder: Path, count: int = 2) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PROMPTTRANSFER_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_torchrun_starts_the_command_line(assets: Path, configs: dict[str, RunConfig], tmp_path: Path) -> None:
    settings = configs["every method"].model_dump(mode="json") | {"methods": ["PT"], "sources": []}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(settings))
    started = launch(
        "-m", "prompttransfer", "compare", "--recipe", recipe, "--output", tmp_path / "run", "--json", folder=tmp_path
    )
    output, errors = started.communicate(timeout=240)
    assert started.returncode == 0, errors
    assert json.loads(output)["finished"] is True
    assert (tmp_path / "run" / "report.html").is_file()
    assert "Warning" not in errors


@pytest.mark.parametrize("who", ["main", "all"])
def test_a_process_that_fails_ends_all_and_is_told_of_once(tmp_path: Path, who: str) -> None:
    started = launch(Path(__file__).with_name("failing.py"), who, tmp_path, folder=tmp_path)
    _, errors = started.communicate(timeout=120)
    assert started.returncode != 0
    assert errors.count("on fire") == 1, errors


def test_ctrl_c_ends_all_processes_with_one_message(tmp_path: Path) -> None:
    started = launch(Path(__file__).with_name("failing.py"), "none", tmp_path, folder=tmp_path)
    while len(list(tmp_path.glob("ready*"))) < 2:
        assert started.poll() is None
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, errors = started.communicate(timeout=120)
    assert started.returncode != 0
    assert errors.count("stopped; run the same command again to continue") == 1, errors
