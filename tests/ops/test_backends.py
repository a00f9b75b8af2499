"""Choosing a backend: automatic choice skips backends, a forced one runs or raises with every candidate's reason."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from cases import CALLS, public_calls, rand

import promptkernels as pk
from promptkernels.backends import registry
from promptkernels.backends.native import load


@pytest.fixture
def broken_cpu(monkeypatch):
    """A machine on which the native module could not be built."""
    cpu = registry.Backend(
        "cpu", devices=("cpu",), why_unavailable=lambda: "the extension was not built", facts=dict, functions={}
    )
    monkeypatch.setitem(registry.BACKENDS, "cpu", cpu)
    registry._chosen.clear()
    yield
    registry._chosen.clear()


def test_automatic_choice_steps_aside(broken_cpu):
    assert registry.choose("cpu", torch.float32).name == "reference"
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
                registry.choose(meta.device, meta.dtype)


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
        assert registry.choose("cpu", torch.float32).name == "reference"
        raise ZeroDivisionError
    assert registry.choose("cpu", torch.float32) is before


def test_leaving_a_block_is_no_error_where_the_choice_around_it_cannot_run(broken_cpu, monkeypatch):
    monkeypatch.setattr(registry, "_forced", "cpu")
    with pk.use_backend("reference"):
        assert pk.task_similarity(rand(2, 2, 4)).shape == (2, 2)
    with pytest.raises(pk.BackendUnavailable):
        pk.task_similarity(rand(2, 2, 4))


def test_overlapping_blocks_of_two_threads():
    """The block that begins first ends first; neither reaches the other thread, or the process."""
    automatic = registry.choose("cpu", torch.float32)
    begun, ended, seen = threading.Event(), threading.Event(), {}

    def first():
        with pk.use_backend("reference"):
            begun.wait(10)
            seen["first"] = registry.forced()
        ended.set()

    def second():
        with pk.use_backend(None):
            begun.set()
            ended.wait(10)
            seen["second"] = registry.forced()

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"first": "reference", "second": None}
    assert registry.forced() is None and registry.choose("cpu", torch.float32) is automatic


def test_a_block_of_the_automatic_choice_within_a_forced_one():
    automatic = registry.choose("cpu", torch.float32)
    with pk.use_backend("reference"):
        with pk.use_backend(None):
            assert registry.choose("cpu", torch.float32) is automatic
        assert registry.choose("cpu", torch.float32).name == "reference"


def test_set_backend_reaches_every_thread_and_blocks_go_before_it():
    def of_a_thread():
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(registry.forced).result()

    pk.set_backend("reference")
    try:
        assert of_a_thread() == "reference"
        with pk.use_backend(None):
            assert registry.forced() is None and of_a_thread() == "reference"
    finally:
        pk.set_backend(None)


@pytest.mark.parametrize("call", CALLS)
def test_the_gradient_comes_from_the_backend_of_the_forward_call(call, monkeypatch):
    """The backward runs in another thread after the block, as torch does for gradients of GPU tensors."""
    function, tensors = public_calls()[call]
    leaf = next(iter(tensors.values())).requires_grad_()
    with pk.use_backend("reference"):
        total = function(**tensors).sum()
    called, functions = [], registry.BACKENDS["reference"].functions
    for name, original in functions.items():
        if name.endswith("_backward"):
            monkeypatch.setitem(functions, name, lambda *a, f=original: called.append(1) or f(*a))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(total.backward).result()
    assert called and leaf.grad is not None
    assert registry.forced() is None


def test_modules_of_the_package_import_under_a_name():
    """`pk.backends` is the function; the package of that name can be reached all the same."""
    import promptkernels.backends.registry as imported
    import promptkernels.backends.types as types

    assert imported is registry and types.accumulation_type(torch.ones(1)) == torch.float32
    assert set(pk.backends()) == set(registry.BACKENDS)


def test_a_notebook_shows_a_table(monkeypatch):
    forbidden = dataclasses.replace(registry.BACKENDS["cpu"], why_unavailable=lambda: "a < b & c")
    monkeypatch.setitem(registry.BACKENDS, "cpu", forbidden)
    table = ElementTree.fromstring(pk.backends()._repr_html_())
    rows = {line[0].text: [cell.text for cell in line] for line in table}
    assert rows.keys() == {"backend", *registry.BACKENDS}
    assert rows["cpu"][1] == "no: a < b & c" and rows["reference"][1:3] == ["yes", "*"]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    import os

    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


def test_environment_variable_forces_a_backend():
    code = "import torch, promptkernels as pk; pk.task_similarity(torch.eye(3)); "
    code += "from promptkernels.backends import registry; print(registry.choose('cpu', torch.float32).name)"
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
