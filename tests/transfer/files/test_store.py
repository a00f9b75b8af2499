"""The store of finished stages, and the settings that feed it."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prompttransfer import RunConfig
from prompttransfer.files.durable import write_json
from prompttransfer.files.store import StageResult, Store, key_hash, tensor_hash


def test_a_stage_is_computed_once_and_found_again(tmp_path: Path) -> None:
    calls = []

    def compute(work: Path) -> StageResult:
        calls.append(work)
        (work / "checkpoint").write_text("x")
        return StageResult({"prompt": torch.arange(3.0)}, {"seconds": 1.5})

    first = Store(tmp_path).cached({"a": 1, "b": [2]}, compute)
    second = Store(tmp_path).cached({"b": [2], "a": 1}, compute)
    assert len(calls) == 1
    assert (first.reused, second.reused) == (False, True)
    store = Store(tmp_path)
    assert [store.cached({"a": 1, "b": [2]}, compute).news for _ in range(2)] == [True, False]
    assert torch.equal(second.tensors["prompt"], torch.arange(3.0))
    assert second.facts == {"seconds": 1.5}
    assert not calls[0].exists(), "the work folder goes when the result is safe"
    Store(tmp_path).cached({"a": 2, "b": [2]}, compute)
    assert len(calls) == 2


def test_an_interrupted_stage_leaves_no_result_but_its_work(tmp_path: Path) -> None:
    def stop(work: Path) -> StageResult:
        (work / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).cached({"a": 1}, stop)
    assert not list((tmp_path / "done").iterdir())
    result = Store(tmp_path).cached(
        {"a": 1}, lambda work: StageResult({}, {"found": (work / "checkpoint").read_text()})
    )
    assert result.facts == {"found": "half"}


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).cached({"a": 1}, lambda work: StageResult({}, {"loss": float("nan")}))
    assert not list((tmp_path / "done").iterdir())


def test_hashes_follow_content() -> None:
    assert key_hash({"a": 1, "b": 2}) == key_hash({"b": 2, "a": 1}) != key_hash({"a": 1, "b": 3})
    assert tensor_hash(torch.zeros(2, 3)) != tensor_hash(torch.zeros(3, 2))
    assert tensor_hash(torch.zeros(2, 3)) == tensor_hash(torch.zeros(3, 2).T)


def test_write_json_replaces_the_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rat": 0.1}, "did you mean 'learning_rate'"),
        ({"mpt": {"temprature": 2}}, "did you mean 'temperature'"),
        ({"methods": ["PT", "LoRA"]}, "methods"),
        ({"sources": [], "methods": ["PT", "MPT"]}, "MPT transfer from source tasks"),
        ({"targets": []}, "targets is empty"),
        ({"targets": ["sst2", "sst2"]}, "named more than once: sst2"),
        ({"target_updates": 1, "methods": ["SPoT"]}, "SPoT"),
        ({"init": "text"}, "init_text"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_reason(settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig(**settings)


def test_settings_survive_json_and_plain_prompt_tuning_needs_no_source() -> None:
    config = RunConfig(mpt={"rank": 2}, seeds=[1, 2])
    assert RunConfig(**json.loads(config.model_dump_json())) == config
    assert RunConfig(sources=[], methods=["PT"], target_updates=1).sources == ()


@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json", "SHA256SUMS"])
def test_a_damaged_entry_is_computed_again(tmp_path: Path, name: str) -> None:
    notes: list[str] = []
    store = Store(tmp_path, notes.append)

    def compute(work: Path) -> StageResult:
        return StageResult({"prompt": torch.arange(3.0)}, {"seconds": 1.5})

    store.cached({"a": 1}, compute)
    file = tmp_path / "done" / key_hash({"a": 1}) / name
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    result = store.cached({"a": 1}, compute, "source red")
    assert not result.reused and torch.equal(result.tensors["prompt"], torch.arange(3.0))
    assert len(notes) == 1 and notes[0].startswith("source red: damaged in the store, computing it again")
    assert file.read_bytes() == content and store.cached({"a": 1}, compute).reused


def test_an_entry_without_hashes_is_computed_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.cached({"a": 1}, lambda work: StageResult({"prompt": torch.arange(3.0)}))
    (tmp_path / "done" / key_hash({"a": 1}) / "SHA256SUMS").unlink()
    result = store.cached({"a": 1}, lambda work: StageResult({"prompt": torch.ones(3)}))
    assert not result.reused and torch.equal(result.tensors["prompt"], torch.ones(3))


def test_a_result_whose_work_folder_was_left_is_found_and_the_folder_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.cached({"a": 1}, lambda work: StageResult({}, {"found": 1}))
    left = tmp_path / "work" / key_hash({"a": 1})
    (left / "checkpoint-1").mkdir(parents=True)
    assert store.cached({"a": 1}, lambda work: StageResult({}, {"found": 2})).facts == {"found": 1}
    assert not left.exists()


def hold(folder: Path, held: object) -> None:
    def compute(work: Path) -> StageResult:
        held.set()
        time.sleep(600)

    Store(folder).cached({"a": 1}, compute)


def test_who_waits_says_so_and_a_dead_holder_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompttransfer.files.store._PATIENCE", 0.05)
    fork = multiprocessing.get_context("fork")
    held = fork.Event()
    process = fork.Process(target=hold, args=(tmp_path, held))
    process.start()
    held.wait()
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        process.kill()

    result = Store(tmp_path, note).cached({"a": 1}, lambda work: StageResult({}, {"found": 1}), "source red")
    process.join()
    assert notes == ["source red: another run is computing it; waiting"] and result.facts == {"found": 1}
