"""Backend ``cuda-emulated``: the CUDA kernels compiled for the host, on CPU tensors. Known to the tests only."""

from __future__ import annotations

import sys

import torch
from native_build import build_module, load_module

from promptkernels.backends import registry
from promptkernels.backends.cuda import call, functions
from promptkernels.backends.native import Native

NAME = "cuda-emulated"
MODULE = "promptkernels._C_cuda_emulated"


def make_backend() -> registry.Backend:
    """Compiles the kernels on first use."""
    native = sys.modules.get(MODULE) or load_module(MODULE, build_module("cuda_emulated"))
    tickets = torch.zeros(native.TICKETS, dtype=torch.int32)

    def run(function, device, *arguments):
        call(native, function, device, 0, tickets, *arguments)
        assert not tickets.any(), f"{function.__name__} leaves tickets behind"

    return registry.Backend(
        NAME, devices=("cpu",), why_unavailable=lambda: None, facts=dict, functions=functions(Native(native, run))
    )


def prepare(request) -> None:
    """Register the backend for the length of one test."""
    monkeypatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setitem(registry.BACKENDS, NAME, request.getfixturevalue("emulated_backend"))
