"""The store of finished stages, and the settings that feed it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from prompttransfer.config import RunConfig
from prompttransfer.store import Result, Store, key_hash, tensor_hash, write_json


def test_a_stage_is_computed_once_and_found_again(tmp_path: Path) -> None:
    calls = []

    def compute(work: Path) -> Result:
        calls.append(work)
        (work / "checkpoint").write_text("x")
        return Result({"prompt": torch.arange(3.0)}, {"seconds": 1.5})

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
    def stop(work: Path) -> Result:
        (work / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).cached({"a": 1}, stop)
    assert not list((tmp_path / "done").iterdir())
    found = Store(tmp_path).cached({"a": 1}, lambda work: Result({}, {"found": (work / "checkpoint").read_text()}))
    assert found.facts == {"found": "half"}


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).cached({"a": 1}, lambda work: Result({}, {"loss": float("nan")}))
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
        ({"target_updates": 1}, "SPoT"),
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
