"""Choose the backend that runs an operation.

The automatic choice is the first backend in `PREFERENCE` for the tensors' device that can run; others are skipped
silently. A forced backend (`use_backend` for a block, `set_backend` or the environment variable
``PROMPTKERNELS_BACKEND`` for the process) is never skipped: it runs, or it raises with the reason of every candidate.
"""

from __future__ import annotations

import html
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from promptkernels.backends.types import FLOATING

log = logging.getLogger("promptkernels")


@dataclass(frozen=True)
class Backend:
    """One implementation of the operations.

    Args:
        devices: types of the devices whose tensors it supports; "*" for any.
        why_unavailable: returns None if it can run here, else the reason, in one line.
        facts: returns build facts to show.
        functions: functions of all operations in the table, by name.
        why_not_on: returns None if it can run on the device with this index, else the reason, in one line.
        dtypes: supported element types of the first argument.
    """

    name: str
    devices: tuple[str, ...]
    why_unavailable: Callable[[], str | None]
    facts: Callable[[], dict[str, str]]
    functions: Mapping[str, Callable[..., Any]]
    why_not_on: Callable[[int], str | None] = lambda index: None
    dtypes: tuple[torch.dtype, ...] = FLOATING


BACKENDS: dict[str, Backend] = {}  # filled by `promptkernels.backends.known`
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "triton", "reference"),  # AMD GPUs too, which torch also calls cuda
    "xpu": ("triton", "reference"),
}

_forced: str | None = os.environ.get("PROMPTKERNELS_BACKEND") or None
_block: ContextVar[str | None] = ContextVar("promptkernels_backend")  # set by `use_backend`; unset outside of a block
_chosen: dict[tuple[str | None, torch.device | str, torch.dtype], Backend] = {}


class BackendUnavailable(RuntimeError):
    """A backend requested by name cannot run here. The message has the reason of every candidate."""


@dataclass(frozen=True)
class BackendStatus:
    """Status of one backend in `backends()`."""

    name: str
    available: bool
    reason: str
    devices: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)


class _Table(dict[str, BackendStatus]):
    """A dictionary that notebooks show as a table."""

    def _repr_html_(self) -> str:
        rows = [("backend", "available", "devices", "built with")]
        for status in self.values():
            facts = ", ".join(f"{name} {value}" for name, value in status.facts.items())
            available = "yes" if status.available else f"no: {status.reason}"
            rows.append((status.name, available, ", ".join(status.devices), facts))
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
        return f"<table>{''.join(f'<tr>{line}</tr>' for line in cells)}</table>"


def backends() -> dict[str, BackendStatus]:
    """Status of every backend, by name: whether it can run here, why not, device types ("*": any) and build facts.

    Notebooks show it as a table.
    """
    table = _Table()
    for name, backend in BACKENDS.items():
        reason = backend.why_unavailable()
        table[name] = BackendStatus(name, reason is None, reason or "", backend.devices, backend.facts())
    return table


def _check_name(name: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)} or None (automatic), got {name!r}")


def _refusal(backend: Backend, device: torch.device, dtype: torch.dtype) -> str | None:
    reason = backend.why_unavailable()
    if reason is None and backend.devices != ("*",) and device.type not in backend.devices:
        reason = f"runs on {', '.join(backend.devices)} tensors only"
    if reason is None and dtype not in backend.dtypes:
        reason = f"has no kernels for {dtype}"
    if reason is None and device.index is not None:
        reason = backend.why_not_on(device.index)
    return reason


def _raise_unavailable(name: str, what: str, reasons: dict[str, str | None]) -> None:
    lines = [f"  {key}: {reason or 'can run'}" for key, reason in reasons.items()]
    raise BackendUnavailable(f"backend {name!r} was requested but cannot run {what}:\n" + "\n".join(lines))


def set_backend(name: str | None) -> None:
    """Force one backend for the whole process; None restores the automatic choice.

    `use_backend` blocks take precedence.

    Raises:
        ValueError: the name is unknown.
        BackendUnavailable: the backend cannot run here.
    """
    global _forced
    _check_available(name)
    _forced = name


def _check_available(name: str | None) -> None:
    if name is not None:
        _check_name(name)
        if BACKENDS[name].why_unavailable() is not None:
            _raise_unavailable(name, "here", {key: backend.why_unavailable() for key, backend in BACKENDS.items()})


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Force one backend for a ``with`` block; None restores the automatic choice inside it.

    The choice applies only to the thread or asynchronous task that enters the block. A gradient uses the backend that
    was in force when its operation was called.

    Raises:
        ValueError: the name is unknown.
        BackendUnavailable: the backend cannot run here.
    """
    _check_available(name)
    before = _block.set(name)
    try:
        yield
    finally:
        _block.reset(before)


def forced() -> str | None:
    """Name of the forced backend, from the innermost block or else the process; None: automatic."""
    return _block.get(_forced)


def call_under(name: str | None, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function(*arguments)`` with a choice that `forced` returned earlier."""
    if name == forced():
        return function(*arguments)
    before = _block.set(name)
    try:
        return function(*arguments)
    finally:
        _block.reset(before)


def choose(device: torch.device | str, dtype: torch.dtype) -> Backend:
    """The backend that runs operations on tensors of this device and element type.

    A device without an index means any device of its type.
    """
    key = (_block.get(_forced), device, dtype)
    backend = _chosen.get(key)
    if backend is None:
        backend = _chosen[key] = _decide(*key)
    return backend


def _decide(forced: str | None, device: torch.device | str, dtype: torch.dtype) -> Backend:
    device = torch.device(device)
    if forced is not None:
        _check_name(forced)
        if _refusal(BACKENDS[forced], device, dtype) is not None:
            reasons = {name: _refusal(backend, device, dtype) for name, backend in BACKENDS.items()}
            _raise_unavailable(forced, f"{dtype} tensors on {device.type}", reasons)
        return BACKENDS[forced]
    for name in PREFERENCE.get(device.type, ("reference",)):
        reason = _refusal(BACKENDS[name], device, dtype)
        if reason is None:
            log.info("%s tensors of %s: backend %s", device.type, dtype, name)
            return BACKENDS[name]
        log.info("%s tensors of %s: backend %s is skipped: %s", device.type, dtype, name, reason)
    raise BackendUnavailable(f"no backend has kernels for {dtype} tensors on {device.type}")
