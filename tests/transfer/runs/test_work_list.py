"""Jobs that several workers share through a folder."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prompttransfer.runs.work_list import Worker, WorkList

QUICK = {"beat": 0.05, "stale": 0.5, "poll": 0.02}
spawn = multiprocessing.get_context("spawn")


def work(folder: Path, done: Path, names: list[str], me: str) -> None:
    """Does jobs by writing a line to a file for each."""
    with WorkList(folder, "k", **QUICK) as jobs:
        for name in jobs.jobs(names, lambda name: (done / name).is_file()):
            with (done / name).open("a") as file:
                file.write(f"{me}\n")


def take_and_die(folder: Path) -> None:
    jobs = WorkList(folder, "k", **QUICK)
    jobs.__enter__()
    next(jobs.jobs(["a"], lambda name: False))
    os._exit(9)


def test_every_job_is_done_once_by_many_workers(tmp_path: Path) -> None:
    done, names = tmp_path / "done", [f"job{index}" for index in range(60)]
    done.mkdir()
    threads = [threading.Thread(target=work, args=(tmp_path / "claims", done, names, str(me))) for me in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in done.iterdir()) == sorted(names)
    assert all(len(path.read_text().splitlines()) == 1 for path in done.iterdir())
    assert not (tmp_path / "claims").exists(), "the last one takes the files along"


def test_a_job_is_held_until_the_next_one(tmp_path: Path) -> None:
    finished: set[str] = set()
    with WorkList(tmp_path / "c", "k", **QUICK) as first, WorkList(tmp_path / "c", "k", **QUICK) as second:
        mine, others = (jobs.jobs(["a", "b", "c"], finished.__contains__) for jobs in (first, second))
        assert (next(mine), next(others)) == ("a", "b")
        finished |= {"a", "b"}
        assert next(mine) == "c"
        finished.add("c")
        assert list(others) == [] == list(mine)


def test_a_dead_process_of_this_machine_leaves_its_job_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    process = spawn.Process(target=take_and_die, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == 9 and {path.suffix for path in folder.iterdir()} == {".worker", ".claim"}
    done: set[str] = set()
    with WorkList(folder, "k", beat=20, stale=1e6) as jobs:
        assert jobs.others() == []
        for name in jobs.jobs(["a"], done.__contains__):
            assert name == "a" and (folder / "a.1.claim").is_file()
            done.add(name)
    assert not folder.exists()


def test_a_worker_of_another_machine_is_believed_until_it_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told, times = tmp_path / "c", [], [100.0]
    with WorkList(folder, "k", told.append, beat=20, stale=0.5, poll=0.3) as jobs:
        away = folder / "far-1-00000000.worker"
        claim = folder / "a.4.claim"
        for path in (away, claim):
            path.write_text('{"host": "far", "pid": 1, "namespace": "x", "started": 0.0, "key": "k"}')
            os.utime(path, (times[0], times[0]))

        def sleep(seconds: float) -> None:
            times.append(times[-1] + seconds)
            if len(times) == 2:
                os.utime(claim, (times[-1], times[-1]))  # its last sign of life

        monkeypatch.setattr(jobs, "_now", lambda: times[-1])
        monkeypatch.setattr("prompttransfer.runs.work_list.time.sleep", sleep)
        assert jobs.others() == [Worker("far", 1, "x", 0.0, "k")]
        assert next(jobs.jobs(["a"], lambda name: False)) == "a"
        assert len(times) == 4 and (folder / "a.5.claim").is_file()
    assert told == ["waiting for 1 jobs of far (pid 1)"]


def test_a_job_that_was_abandoned_twice_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest of its files counts, in whatever order the folder lists them."""
    folder, names = tmp_path / "c", ["a.0.claim", "a.1.claim"]
    for order in (names, names[::-1]):
        with WorkList(folder, "k", **QUICK) as jobs:
            for name in names:
                (folder / name).write_text("")
                os.utime(folder / name, (1, 1))
            files = jobs._files

            def listed(order: list[str] = order, files: Callable[[], list[Path]] = files) -> list[Path]:
                return sorted(files(), key=lambda path: order.index(path.name) if path.name in order else -1)

            monkeypatch.setattr(jobs, "_files", listed)
            monkeypatch.setattr("prompttransfer.runs.work_list.time.sleep", pytest.fail)
            taken = jobs.jobs(["a"], lambda name: False)
            assert next(taken) == "a" and (folder / "a.2.claim").is_file()
            monkeypatch.undo()
        assert not folder.exists()


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    folder, winners = tmp_path / "c", []
    lists = [WorkList(folder, "k", **QUICK) for _ in range(8)]
    for jobs in lists:
        jobs.__enter__()
    dead = folder / "a.0.claim"
    dead.write_text("")  # its writer was killed before its first word
    os.utime(dead, (1, 1))
    gate = threading.Barrier(8)

    def compete(jobs: WorkList) -> None:
        gate.wait()
        if jobs._claim("a", 0):
            winners.append(jobs)

    threads = [threading.Thread(target=compete, args=(jobs,)) for jobs in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    for jobs in lists:
        jobs.__exit__(None, None, None)
    assert not folder.exists()


def test_of_many_that_leave_at_once_one_is_the_last(tmp_path: Path) -> None:
    folder, gate, calls = tmp_path / "c", threading.Barrier(8), []

    def come_and_go() -> None:
        with WorkList(folder, "k", last=lambda: calls.append(sorted(folder.iterdir())), **QUICK):
            gate.wait()

    for _ in range(20):
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls == [[folder / ".door.0.claim"]] and not folder.exists()
        calls.clear()


def test_who_comes_while_the_last_one_leaves_waits_and_stays(tmp_path: Path) -> None:
    folder, coming, order = tmp_path / "c", WorkList(tmp_path / "c", "k", **QUICK), []

    def last() -> None:
        coming.__enter__()
        thread.start()
        time.sleep(0.1)
        order.append("left")

    def enter() -> None:
        with coming.door():
            order.append("came")

    thread = threading.Thread(target=enter)
    with WorkList(folder, "k", last=last, **QUICK):
        pass
    thread.join()
    assert order == ["left", "came"] and [path.suffix for path in folder.iterdir()] == [".worker"]
    coming.__exit__(None, None, None)
    assert not folder.exists()


def test_who_looked_too_early_does_not_win(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with WorkList(folder, "k", **QUICK) as one, WorkList(folder, "k", **QUICK) as other:
        assert not one._claim("a", 0), "it was there when it looked, and was released since"
        assert other._claim("a", -1)
        (folder / "a.0.claim").rename(folder / "a.1.claim")  # as if taken over from a dead one, which is cleared away
        assert not one._claim("a", -1) and [path.name for path in folder.glob("a.*")] == ["a.1.claim"]


def test_an_error_frees_the_job(tmp_path: Path) -> None:
    with pytest.raises(KeyError), WorkList(tmp_path / "c", "k", **QUICK) as jobs:
        for name in jobs.jobs(["a"], lambda name: False):
            raise KeyError(name)
    assert not (tmp_path / "c").exists()


def test_a_full_disk_leaves_no_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with WorkList(tmp_path / "c", "k", **QUICK) as jobs:
        monkeypatch.setattr("prompttransfer.runs.work_list.json.dump", full)
        with pytest.raises(OSError, match="No space"):
            next(jobs.jobs(["a"], lambda name: False))
        assert not list((tmp_path / "c").glob("*.claim"))
