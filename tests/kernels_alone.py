"""The installed CPU module without torch: arrays of numpy in, compared with the formulas of the papers.

    python kernels_alone.py [LEVEL]

For wheels, on Pythons and processors without a torch at hand. Every instruction set that this processor has computes;
LEVEL is the one that has to be chosen by itself, the best of /proc/cpuinfo if not given.
"""

from __future__ import annotations

import platform
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "ops"))
import formulas

METRICS = ("cosine", "token_mean_cosine", "token_mean_dot")  # in the order of the module
LIU2016 = 1
TASKS, OTHERS, LENGTH, HIDDEN, RANK, BATCH, TEXT = 5, 2, 3, 67, 2, 4, 2


def load() -> ModuleType:
    """``promptkernels._C_cpu`` as Python finds it, without the package around it, which imports torch."""
    spec = PathFinder.find_spec("promptkernels._C_cpu", find_spec("promptkernels").submodule_search_locations)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def best_level() -> str:
    if platform.machine() != "x86_64":
        return "baseline"
    flags = set(Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split())
    if not flags >= {"avx2", "fma"}:
        return "baseline"
    return "avx512" if flags >= {"avx512f", "avx512bw", "avx512dq", "avx512vl"} else "avx2"


def can_run(module: ModuleType, level: str) -> bool:
    try:
        module.choose_isa(level)
    except ValueError:
        return False
    return True


def pairs(module: ModuleType, dtype: type) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Result and oracle of every operation."""
    random = np.random.default_rng(1)

    def rand(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(dtype)

    def at(array: np.ndarray) -> int:
        return array.ctypes.data

    def out(*shape: int) -> np.ndarray:
        return np.full(shape, np.nan, dtype)

    wide = dtype == np.float64
    code = int(wide)
    prompts, others, start = rand(TASKS, LENGTH, HIDDEN), rand(OTHERS, LENGTH, HIDDEN), rand(LENGTH, HIDDEN)
    scale, weights = rand(TASKS, LENGTH), rand(TASKS)
    found = {}

    left, right = out(TASKS), out(OTHERS)
    for index, metric in enumerate(METRICS):
        got = out(TASKS, OTHERS)
        module.similarity(
            *(at(prompts), at(start), at(others), at(scale), TASKS, OTHERS, LENGTH, HIDDEN, code, index, 1e-8),
            *(at(got), at(left), at(right), 0, 1),
        )
        found[metric] = got, formulas.task_similarity(prompts, start, others, scale, metric)

    scores = rand(TASKS, LENGTH, HIDDEN)
    phi, kernel, h = out(TASKS, LENGTH * HIDDEN), out(TASKS, TASKS), out(1)
    module.svgd(
        *(at(prompts), at(scores), TASKS, LENGTH, HIDDEN, code, code, LIU2016, 0.0, False),
        *(at(phi), at(kernel), at(h), 1),
    )
    want = formulas.svgd_direction(prompts.reshape(TASKS, -1), scores.reshape(TASKS, -1), "liu2016")
    found |= zip(("phi", "kernel", "h"), zip((phi, kernel, h), want, strict=True), strict=True)

    got = out(LENGTH, HIDDEN)
    module.merge(at(start), at(prompts), at(scale), at(weights), TASKS, LENGTH, HIDDEN, code, at(got), 1)
    found["merge"] = got, formulas.merge_task_vectors(start, prompts, scale, weights)

    u, v, embeds = rand(TASKS, LENGTH, RANK), rand(TASKS, RANK, HIDDEN), rand(BATCH, TEXT, HIDDEN)
    task_ids, got = np.array([3, 0, 3, 4]), out(BATCH, LENGTH + TEXT, HIDDEN)
    factors = at(start), at(u), at(v), TASKS, LENGTH, RANK, HIDDEN, wide
    module.compose(*factors, at(task_ids), True, BATCH, at(embeds), TEXT, code, at(got), 1)
    composed = formulas.compose_prompts(start, u, v, task_ids)
    found["compose"] = got, np.concatenate([composed, embeds], axis=1)

    similarity = random.uniform(-1, 1, (TASKS, TASKS)).astype(dtype)
    chosen = np.zeros(TASKS, bool)
    module.select_group(at(similarity), wide, TASKS, 2, at(chosen), 1)
    found["group"] = chosen, np.isin(np.arange(TASKS), [2, *formulas.select_group(similarity, 2)])

    task_ids[1] = TASKS
    try:
        module.compose(*factors, at(task_ids), True, BATCH, at(embeds), TEXT, code, at(got), 1)
    except IndexError as error:
        assert "valid task ids are 0..4" in str(error)
    else:
        raise AssertionError("a task id out of range was taken")
    return found


def main() -> None:
    module = load()
    level, expected = module.build_info()["isa"], (sys.argv[1:] or [best_level()])[0]
    assert level == expected, f"{level} was chosen, {expected} is the best that this processor has"
    levels = [name for name in module.build_info()["isa_compiled"].split(", ") if can_run(module, name)]
    assert level in levels
    for name in levels:
        module.choose_isa(name)
        for dtype, bound in ((np.float32, 1e-6), (np.float64, 1e-14)):
            for result, (got, want) in pairs(module, dtype).items():
                error = np.abs(got - 1.0 * want).max() / np.abs(1.0 * want).max()
                assert error <= bound, f"{result}, {dtype.__name__}, {name}: off by {error:.1e}"
    print(f"{Path(module.__file__).name}: {', '.join(levels)}; {module.build_info()['compiler']}")


if __name__ == "__main__":
    main()
