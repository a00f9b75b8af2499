"""A run with several workers gives the rows, prompts and histories of a run in one process."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from recorded_progress import RecordedProgress
from typer.testing import CliRunner

from prompttransfer import Context, EncodedTask, Method, MethodResult, RunConfig, cli, register_method
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.compare import compare
from prompttransfer.runs.executors import JobFailed, LocalWorkers
from prompttransfer.runs.executors.payload import Failure
from prompttransfer.runs.executors.relay import Receiver, Sender
from prompttransfer.runs.run_folder import RunFolder
from tools.reliability.runs import content, placed, toy_settings
from tools.reliability.workers import kill_workers


class Broken(Method):
    """A method of the user's that fails on a target."""

    name = "Broken"
    transfers = False

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        raise LookupError("nothing here")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Bits depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setattr("prompttransfer.runs.executors.local.os.cpu_count", lambda: 2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(tmp_path: Path) -> RunConfig:
    return toy_settings(tmp_path).model_copy(update={"seeds": (1, 2)})


@pytest.mark.distributed
@pytest.mark.slow
def test_two_workers_make_what_one_process_makes(toy: RunConfig, tmp_path: Path) -> None:
    alone, two = placed(toy, tmp_path / "alone"), placed(toy, tmp_path / "two")
    compare(alone)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(two.model_dump_json())
    done = CliRunner().invoke(cli.app, ["compare", "--recipe", str(recipe), "--workers", "2", "-q"])
    assert done.exit_code == 0, done.output
    files = content(two.output)
    assert files.pop("report.html", "") is None
    assert files == content(alone.output)


@pytest.mark.distributed
@pytest.mark.slow
def test_idle_workers_return_and_clean_up(toy: RunConfig, tmp_path: Path) -> None:
    """One that is stopped leaves its semaphores to a warning at the end of the run."""
    with LocalWorkers(1).open(placed(toy, tmp_path / "run"), ProgressReporter()) as session:
        assert session.plan.order
        (process,) = [worker.process for worker in session.workers]
    assert process.exitcode == 0


@pytest.mark.distributed
@pytest.mark.slow
def test_killed_workers_are_replaced(tmp_path: Path) -> None:
    report = kill_workers(tmp_path, LocalWorkers(2), times=2, seed=0)
    assert report.kills == 2


@pytest.mark.distributed
@pytest.mark.slow
def test_an_error_on_a_worker_names_job_and_worker_once(toy: RunConfig, tmp_path: Path, methods_restored: None) -> None:
    """Also a method that is not the package's reaches the workers."""
    register_method(Broken)
    config, progress = (
        placed(toy, tmp_path / "x").model_copy(update={"methods": ("Broken", "PT"), "sources": ()}),
        RecordedProgress(),
    )
    with pytest.raises(JobFailed, match=r"Broken-goal-seed\d failed on worker \d on .* \(pid \d+\): nothing here"):
        compare(config, progress, LocalWorkers(2))
    assert progress.warnings == []


@pytest.mark.distributed
@pytest.mark.slow
def test_workers_that_cannot_load_the_model_end_the_run(toy: RunConfig, tmp_path: Path) -> None:
    config = placed(toy, tmp_path / "x").model_copy(update={"model": str(tmp_path / "nowhere"), "methods": ("PT",)})
    with pytest.raises(ValueError, match="nowhere"):
        compare(config, executor=LocalWorkers(2))


def test_workers_are_not_for_processes_of_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="workers: got 3 in one of 2 processes of a launcher; want 1 there"):
        LocalWorkers(3)


def test_a_folder_has_one_writer(toy: RunConfig, tmp_path: Path) -> None:
    config = placed(toy, tmp_path / "x")
    with RunFolder(config.output, config, {}, {}, ProgressReporter()):
        second = RunFolder(config.output, config, {}, {}, ProgressReporter())
        with pytest.raises(ValueError, match=r"another run is writing to .*x/run; wait until it ends"):
            second.__enter__()
        half = config.output / "prompts" / "sources" / ".red-seed42.safetensors.l0qj4aq3.tmp"
        of_a_shard = config.output / "shards" / "1-of-2" / ".results.json.l0qj4aq3.tmp"
        for path in (half, of_a_shard):
            path.parent.mkdir(parents=True)
            path.touch()
    with RunFolder(config.output, config, {}, {}, ProgressReporter()):
        assert not half.exists(), "what a killed run was writing is deleted"
        assert of_a_shard.exists(), "a shard may be running"


def test_progress_of_a_worker_is_shown_where_the_user_is() -> None:
    progress, seen = RecordedProgress(), set[str]()
    first, second = (Receiver(progress, seen) for _ in range(2))
    for receiver in (first, second):
        sender = Sender(lambda event, to=receiver: to.receive(pickle.loads(pickle.dumps(event))))
        sender.note("model: demo")
        work = sender.stage("source red", 3)
        for loss in (3.0, 2.0, 1.0):
            work.advance(loss=loss)
    assert progress.notes == ["model: demo"]
    assert [(work.title, work.done, work.total, work.figures) for work in progress.works] == 2 * [
        ("source red", 3, 3, {"loss": 1.0})
    ]


def test_an_error_that_cannot_travel_is_told_all_the_same() -> None:
    class Awkward(Exception):
        def __init__(self, one: object, two: object) -> None:
            super().__init__(f"{one} and {two}")

    try:
        raise Awkward(1, threading.Lock())
    except Awkward as error:
        failure = pickle.loads(pickle.dumps(Failure.of(error)))
    assert str(failure.error).startswith("Awkward: 1 and") and "raise Awkward" in failure.trace
