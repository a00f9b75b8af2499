"""Fixtures of the training layer's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_llama, tiny_t5, tiny_tokenizer, toy_task

from prompttransfer.models import Backbone
from prompttransfer.tasks.task import Task


@pytest.fixture
def llama() -> Backbone:
    return Backbone(tiny_llama(), tiny_tokenizer(), precision="float32", max_length=16)


@pytest.fixture
def t5() -> Backbone:
    return Backbone(tiny_t5(), tiny_tokenizer(), precision="float32", max_length=16)


@pytest.fixture(params=["llama", "t5"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return request.getfixturevalue(request.param)


@pytest.fixture
def tasks() -> dict[str, Task]:
    return {name: toy_task(name, word) for word, name in enumerate(["red", "green", "blue", "goal"])}


@pytest.fixture(autouse=True)
def rendered_rows(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of task files are stored apart from the user's."""
    folder = tmp_path_factory.mktemp("rendered")
    monkeypatch.setattr("prompttransfer.tasks.rendered.rendered_folder", lambda: folder)
    return folder
