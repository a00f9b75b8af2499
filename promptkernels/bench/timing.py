"""Time of one call, in seconds: by the host's clock on a CPU, by a replayed CUDA graph or events on a GPU."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

Call = Callable[[], object]
_SAMPLE = 2e-3  # seconds; shorter calls are repeated in a sample
_WARM_UP = 3


@dataclass(frozen=True)
class Sampler:
    """A call prepared for repeated timing.

    Args:
        take: takes one sample, in seconds per call.
        how: ``calls`` (host clock, back to back), ``graph`` (replayed CUDA graph) or ``eager`` (CUDA events around the
            call, including the host's work if it is slower).
        launches: number of graph nodes (kernels, copies and fills); None if unknown.
    """

    take: Callable[[], float]
    how: str
    launches: int | None = None


def sampler(call: Call, device: torch.device, graphs: bool = True) -> Sampler:
    """Warm up a call and choose how to time it."""
    if device.type != "cuda":
        return _host(call)
    return (_graph(call, device) if graphs and _free_of_syncs(call) else None) or _eager(call, device)


def _host(call: Call) -> Sampler:
    once = 0.0
    for _ in range(_WARM_UP):
        once = _seconds(call, 1)
        if once > 100 * _SAMPLE:
            break
    calls = max(1, round(_SAMPLE / max(once, 1e-9)))
    return Sampler(lambda: _seconds(call, calls), "calls")


def _seconds(call: Call, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


def _free_of_syncs(call: Call) -> bool:
    """Whether a call never waits for the device. Checked first, because a failed capture breaks torch's allocator."""
    call()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError:
        return False
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return True


def _graph(call: Call, device: torch.device) -> Sampler | None:
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(_WARM_UP):
            call()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f"  not captured in a graph: {str(error).splitlines()[0]}")
        return None
    launches = _nodes(graph.raw_cuda_graph())
    graph.instantiate()
    graph.replay()
    return Sampler(_between_events(graph.replay, device), "graph", launches)


def _eager(call: Call, device: torch.device) -> Sampler:
    for _ in range(_WARM_UP):
        call()
    return Sampler(_between_events(call, device), "eager")


def _between_events(call: Call, device: torch.device) -> Callable[[], float]:
    """Time with CUDA events. Every sample starts with a cold cache, after reading twice its size, which also hides the
    host's launch time.

    The data is read and not written, because written lines would go back to memory during the sample.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.zeros(max(2 * cache, 1 << 25) // 4, device=device)

    def take() -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.sum()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    return take


def _nodes(graph: int) -> int | None:
    """Number of nodes of a captured graph, from the driver, because torch does not provide it."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count = ctypes.c_size_t()
    status = driver.cuGraphGetNodes(ctypes.c_void_p(graph), None, ctypes.byref(count))
    return count.value if status == 0 else None


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second (read and written) of a plain copy of 256 MB; the best of nine."""
    source = torch.empty(64 << 20, device=device).normal_()
    target = torch.empty_like(source)
    timed = sampler(lambda: target.copy_(source), device)
    return 2 * source.numel() * 4 / min(timed.take() for _ in range(9))
