"""Every backend that can run here, on every device it serves: one test id each (``cpu``, ``reference@cuda``, ...).

A test that takes the `backend` fixture runs once per entry of `RUNNERS`. While it runs, tensors are made on the entry's
device by default (`cases.rand` and `cases.ids` too), so tests name no device. Backends that interpret or emulate their
kernels are slow: their tests are marked so, and what is marked ``large`` is left out for them (`cases.sizes` marks
shapes). ``--runner cuda@cuda`` runs the tests of one entry and nothing else; it is an error if that entry cannot run
here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import emulated
import pytest
import torch

import promptkernels as pk


@dataclass(frozen=True)
class Runner:
    """A backend on a device; ``prepare`` makes a backend known that the package itself does not offer."""

    name: str
    device: str = "cpu"
    slow: bool = False
    prepare: Callable[[pytest.FixtureRequest], object] | None = None

    def __str__(self) -> str:
        return self.name if self.device == "cpu" else f"{self.name}@{self.device}"


def available() -> list[Runner]:
    devices = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    return [
        Runner(name, device, slow=name == "triton" and device == "cpu")
        for name, status in pk.backends().items()
        for device in devices
        if status.available and (device in status.devices or "*" in status.devices)
    ]


RUNNERS = [*available(), Runner(emulated.NAME, slow=True, prepare=emulated.prepare)]


@pytest.fixture(scope="session")
def emulated_backend():
    return emulated.make_backend()


def marked(runner: Runner):
    return pytest.param(runner, marks=[pytest.mark.emulation, pytest.mark.slow] if runner.slow else [])


@pytest.fixture(params=map(marked, RUNNERS), ids=str)
def backend(request):
    runner = request.param
    if runner.prepare is not None:
        runner.prepare(request)
    before = torch.get_default_device()
    if runner.device != "cpu":
        torch.set_default_device(runner.device)
    try:
        with pk.use_backend(runner.name):
            yield runner.name
    finally:
        if runner.device != "cpu":
            torch.set_default_device(before)


def pytest_addoption(parser):
    parser.addoption("--runner", help="only the tests of this backend on this device, as cuda@cuda")


def pytest_configure(config):
    config.addinivalue_line("markers", "large: left out for backends that interpret or emulate their kernels")
    wanted, known = config.getoption("--runner", None), [str(runner) for runner in RUNNERS]
    if wanted is not None and wanted not in known:
        reasons = [f"{name}: {status.reason}" for name, status in pk.backends().items() if status.reason]
        raise pytest.UsageError(f"--runner {wanted} cannot run here; {', '.join(known)} can. {'; '.join(reasons)}")


def pytest_collection_modifyitems(config, items):
    wanted = config.getoption("--runner", None)

    def left_out(item):
        runner = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
        if wanted is not None and str(runner) != wanted:
            return True
        return isinstance(runner, Runner) and runner.slow and item.get_closest_marker("large") is not None

    config.hook.pytest_deselected(items=[item for item in items if left_out(item)])
    items[:] = [item for item in items if not left_out(item)]
