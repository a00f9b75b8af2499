"""Backend ``cuda``: CUDA C++ kernels on torch's current stream.

Scratch memory comes from torch's caching allocator, nothing waits for the device, and every operation can be captured
in a CUDA graph. With more rows than the Gram kernel supports, torch's matrix products are used (`many_rows`).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from promptkernels.backends import many_rows
from promptkernels.backends.native import Native, load
from promptkernels.backends.registry import Backend
from promptkernels.ops.table import TABLE
from promptkernels.reference.similarity import task_similarity_backward
from promptkernels.reference.svgd import svgd_direction_backward

_C, _reason = load("_C_cuda")


def unserved(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether a module built for ``architectures`` has no code for a device of this compute capability.

    The names are CMake's: ``90-real`` is machine code, which runs on the same major and any later minor version,
    ``120-virtual`` is PTX for this and any later version, ``120`` is both. Code for ``90a`` runs on 9.0 only, code for
    the family ``100f`` on the same major and any later minor version. For other names (``native``, ``all``) the result
    is False, so that the device is tried.
    """
    for name in architectures.split():
        match = re.fullmatch(r"(\d+)(\d)([af]?)(-real|-virtual)?", name)
        if match is None:
            return False
        built, limits, kind = (int(match[1]), int(match[2])), match[3], match[4]
        if built == capability:
            return False
        later = built[1] <= capability[1]
        if limits != "a" and kind != "-virtual" and built[0] == capability[0] and later:
            return False
        if limits == "f" and built[0] == capability[0] and later:
            return False
        if not limits and kind != "-real" and built <= capability:
            return False
    return True


def too_old(driver: int, built_with: str) -> bool:
    """Whether a driver (12040 for CUDA 12.4) is too old for a module with the CUDA runtime ``built_with`` ("13.0").

    A runtime works with every driver of its own major version or a later one.
    """
    return driver // 1000 < int(built_with.partition(".")[0])


def _driver() -> int | None:
    """CUDA version that the driver supports, as 12040 for 12.4; None if it cannot be queried."""
    version = ctypes.c_int()
    try:
        status = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return version.value if status == 0 else None


def why_not_on(index: int) -> str | None:
    """None if the module has code for the device with this index, else the reason, in one line."""
    architectures = _C.build_info()["architectures"]
    major, minor = torch.cuda.get_device_capability(index)
    if unserved(architectures, (major, minor)):
        return f"device {index} has compute capability {major}.{minor}, but the module was built for {architectures}"
    return None


def why_unavailable() -> str | None:
    """None if the backend can run on a device here, else the reason, in one line."""
    if _reason is not None:
        return _reason
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device or driver"
    driver, built_with = _driver(), _C.build_info()["cuda"]
    if driver is not None and too_old(driver, built_with):
        return (
            f"the module was built with CUDA {built_with}, and the driver supports only CUDA "
            f"{driver // 1000}.{driver % 1000 // 10}: update the driver, or install with an older nvcc"
        )
    reasons = [why_not_on(index) for index in range(torch.cuda.device_count())]
    return None if None in reasons else "; ".join(filter(None, reasons))


def facts() -> dict[str, str]:
    """Build facts of the compiled module; empty without it."""
    return {} if _C is None else {key: str(value) for key, value in _C.build_info().items()}


class Tickets:
    """Sets of counters on the device, with which the blocks of a launch find out which of them ends last.

    Launches that may overlap never share a set. Eager calls have one set per stream, and each captured call keeps its
    own set (kernels reset it to zero, so a graph can be replayed). The sets are static memory of the module, because
    torch's allocator could place them in the memory pool of a CUDA graph, if the first call is captured, and reuse them
    later. Calls without a free set, and captured calls before the first eager one on their device, get a set from torch
    that is zeroed in stream order, also at every replay.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._first: dict[int, int] = {}  # address of the sets, by device
        self._taken: dict[int, int] = {}
        self._of_stream: dict[tuple[int, int], int] = {}

    def of(self, device: int, stream: int, capturing: bool) -> int | None:
        """Address of a set; None if the module has no free one."""
        if capturing:
            return self._take(device)
        if device not in self._first:
            self._first[device] = self._module.ticket_sets()
        address = self._of_stream.get((device, stream)) or self._take(device)
        if address is not None:
            self._of_stream[device, stream] = address
        return address

    def _take(self, device: int) -> int | None:
        used = self._taken.get(device, 0)
        if device not in self._first or used == self._module.TICKET_SETS:
            return None
        self._taken[device] = used + 1
        return self._first[device] + 4 * self._module.TICKETS * used


_COUNTING = {"similarity", "svgd", "svgd_backward"}  # functions of the module that need tickets


def call(
    module: ModuleType,
    function: Callable[..., Any],
    device: torch.device,
    stream: int,
    tickets: int | Tensor,
    *arguments,
) -> None:
    """Call a native function. Its scratch memory is freed when it returns, which is safe in stream order."""
    held = []

    def allocate(size: int) -> int:
        held.append(torch.empty(size, dtype=torch.uint8, device=device))
        return held[-1].data_ptr()

    address = tickets if isinstance(tickets, int) else tickets.data_ptr()
    function(*arguments, module.Place(stream, allocate, address))


def _run(function: Callable[..., Any], device: torch.device, *arguments: Any) -> None:
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        tickets: int | Tensor | None = 0
        if function.__name__ in _COUNTING:
            capturing = torch.cuda.is_current_stream_capturing()
            tickets = _tickets.of(stream.device_index, stream.cuda_stream, capturing)
            if tickets is None:
                tickets = torch.zeros(_C.TICKETS, dtype=torch.int32, device=device)
        call(_C, function, device, stream.cuda_stream, tickets, *arguments)


def _compared(prompts: Tensor, reference: Tensor | None, others: Tensor | None, *_: Any) -> int:
    return prompts.shape[0] + (0 if others is None else others.shape[0])


# Number of rows of the Gram matrix, and the replacement if the kernel does not support that many.
_GRAM_MATRICES: dict[str, tuple[Callable[..., int], Callable[..., Any]]] = {
    "task_similarity": (_compared, many_rows.task_similarity),
    "task_similarity_z": (_compared, many_rows.task_similarity_z),
    "task_similarity_backward": (lambda grad, *rest: _compared(*rest), task_similarity_backward),
    "svgd_direction": (lambda particles, *_: particles.shape[0], many_rows.svgd_direction),
    # The backward pass has a Gram matrix of gradients, particles and scores.
    "svgd_direction_backward": (lambda grad, *_: 3 * grad.shape[0], svgd_direction_backward),
}


def functions(native: Native) -> dict[str, Callable[..., Any]]:
    """The operations of a compiled module. Gram matrices with many rows use torch's own operations instead."""
    kernels = {name: operation.compiled(native) for name, operation in TABLE.items()}
    for name, (rows, instead) in _GRAM_MATRICES.items():
        kernels[name] = _up_to(native, kernels[name], rows, instead)
    return kernels


def _up_to(native: Native, kernel: Callable[..., Any], rows: Callable[..., int], instead: Callable[..., Any]) -> Any:
    def function(*arguments: Any) -> Any:
        if rows(*arguments) > native.module.MOST_ROWS:
            return many_rows.in_plain_torch(instead, *arguments)
        return kernel(*arguments)

    return function


_tickets = Tickets(_C)
BACKEND = Backend(
    "cuda",
    devices=("cuda",),
    why_unavailable=why_unavailable,
    facts=facts,
    functions=functions(Native(_C, _run)),
    why_not_on=why_not_on,
)
