"""Choosing a backend: automatic steps aside, forced runs or raises with every candidate's reason."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from cases import rand

import promptkernels as pk
from promptkernels.backends import registry
from promptkernels.backends.native import load


@pytest.fixture
def broken_cpu(monkeypatch):
    """A machine on which the native module could not be built."""
    cpu = SimpleNamespace(
        NAME="cpu",
        DEVICES=("cpu",),
        DTYPES=(torch.float32,),
        why_unavailable=lambda: "the extension was not built",
        facts=dict,
    )
    monkeypatch.setitem(registry.BACKENDS, "cpu", cpu)
    registry._chosen.clear()
    yield
    registry._chosen.clear()


def test_automatic_choice_steps_aside(broken_cpu):
    assert registry.choose("cpu", torch.float32).NAME == "reference"
    assert pk.task_similarity(rand(3, 2, 4)).shape == (3, 3)
    assert pk.backends()["cpu"].reason == "the extension was not built"


def test_forced_backend_raises_with_every_reason(broken_cpu):
    with pytest.raises(
        pk.BackendUnavailable, match=r"'cpu'.*(?s:.*)cpu: the extension was not built(?s:.*)reference: can run"
    ):
        pk.set_backend("cpu")
    assert pk.task_similarity(rand(2, 2, 4)).shape == (2, 2)


def test_forced_backend_refuses_tensors_it_cannot_serve():
    meta = torch.empty(2, 3, device="meta")
    for name, status in pk.backends().items():
        if name != "reference" and status.available:
            with pk.use_backend(name), pytest.raises(pk.BackendUnavailable, match="tensors only"):
                registry.choose(meta.device.type, meta.dtype)


def test_a_module_left_over_from_another_version_is_not_called(monkeypatch):
    monkeypatch.setitem(sys.modules, "promptkernels._C_cpu", SimpleNamespace(INTERFACE=-1))
    module, reason = load("_C_cpu")
    assert module is None
    assert "promptkernels._C_cpu was built for another version of the package" in reason
    assert load("_C_none") == (None, "the package was installed without the compiled module promptkernels._C_none")


def test_unknown_backend():
    with pytest.raises(ValueError, match=r"backend must be one of .*reference.*got 'cdna'"):
        pk.set_backend("cdna")


def test_use_backend_restores_the_choice_even_after_an_error():
    before = registry.choose("cpu", torch.float32)
    with pytest.raises(ZeroDivisionError), pk.use_backend("reference"):
        assert registry.choose("cpu", torch.float32).NAME == "reference"
        raise ZeroDivisionError
    assert registry.choose("cpu", torch.float32) is before


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_environment_variable_forces_a_backend():
    code = "import torch, promptkernels as pk; pk.task_similarity(torch.eye(3)); "
    code += "from promptkernels.backends import registry; print(registry.choose('cpu', torch.float32).NAME)"
    assert run(code, PROMPTKERNELS_BACKEND="reference").stdout.strip() == "reference"
    wrong = run(code, PROMPTKERNELS_BACKEND="nonsense")
    assert wrong.returncode != 0 and "backend must be one of" in wrong.stderr


def test_information_page_even_where_a_backend_is_forced():
    code = "import runpy; runpy.run_module('promptkernels', run_name='__main__')"
    forced = run(code, PROMPTKERNELS_BACKEND="nonsense")
    assert forced.returncode == 0 and "backend must be one of" in forced.stdout
    page = run(code).stdout
    for name in pk.backends():
        assert name in page
    assert "cpu tensors are served by" in page
