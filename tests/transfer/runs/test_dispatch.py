"""Distribution of jobs to workers, with fake workers that only take time on a simulated clock."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import StageBusy
from prompttransfer.runs.executors import JobFailed
from prompttransfer.runs.executors.payload import Failure
from prompttransfer.runs.executors.pool import LOSSES, Answer, PooledWorker, WorkerLost, WorkerPool
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.worker import RunPlan

dispatch: Callable[..., Iterator[tuple[str, JobOutput]]] = WorkerPool.results
OUTPUT = JobOutput(row=None, prompts={})  # type: ignore[arg-type]


class Clock:
    """Workers whose jobs take time. A job first trains the stages that it needs and that are not trained yet."""

    def __init__(
        self,
        workers: int,
        seconds: Callable[[str], float],
        stages: Callable[[str], dict[str, float]] = lambda job: {},
        fate: Callable[[str], Exception | Failure | None] = lambda job: None,
    ) -> None:
        self.workers, self.seconds, self.stages, self.fate = workers, seconds, stages, fate
        self.time = self.worked = 0.0
        self.running: list[tuple[float, int, str, object]] = []
        self.done_at: dict[str, float] = {}
        self.starts: Counter[str] = Counter()

    def idle(self) -> int:
        return self.workers - len(self.running)

    def give(self, job: str, *, wait: bool) -> None:
        assert self.idle() > 0
        self.starts[job] += 1
        now, outcome = self.time, self.fate(job) or OUTPUT
        for stage, seconds in self.stages(job).items():
            if stage not in self.done_at:
                self.done_at[stage] = now + seconds
                self.worked += seconds
            elif self.done_at[stage] > now and not wait:
                outcome = StageBusy(stage)
                break
            now = max(now, self.done_at[stage])
        else:
            now += self.seconds(job)
            self.worked += self.seconds(job)
        heapq.heappush(self.running, (now, sum(self.starts.values()), job, outcome))

    def answers(self) -> list[Answer]:
        assert self.running, "waits for nothing"
        self.time, _, job, outcome = heapq.heappop(self.running)
        return [Answer(job, "w", outcome)]  # type: ignore[arg-type]


def test_every_job_is_done_once() -> None:
    jobs = [f"job{n}" for n in range(50)]
    pool = Clock(4, lambda job: 1.0)
    assert sorted(job for job, _ in dispatch(pool, jobs)) == sorted(jobs)
    assert pool.time == 13 and set(pool.starts.values()) == {1}


def test_a_job_whose_stage_is_busy_is_put_off_until_there_is_nothing_else() -> None:
    pool = Clock(2, lambda job: 1.0, lambda job: {"stage": 10.0} if job.startswith("long") else {})
    done = [job for job, _ in dispatch(pool, ["long1", "long2", *(f"short{n}" for n in range(5))])]
    assert done[:5] == [f"short{n}" for n in range(5)] and pool.time == 11


def test_a_job_of_a_lost_worker_is_done_again_and_given_up_in_the_end() -> None:
    losses = Counter[str]()

    def fate(job: str) -> Exception | None:
        losses[job] += 1
        return WorkerLost("worker 1 was lost") if job == "b" and losses[job] < limit else None

    limit = LOSSES
    pool = Clock(2, lambda job: 1.0, fate=fate)
    assert sorted(job for job, _ in dispatch(pool, ["a", "b", "c"])) == ["a", "b", "c"]
    assert pool.starts == {"a": 1, "b": LOSSES, "c": 1}
    limit, losses = LOSSES + 1, Counter()
    with pytest.raises(JobFailed, match=f"b: given up after {LOSSES} lost workers; worker 1 was lost"):
        list(dispatch(Clock(2, lambda job: 1.0, fate=fate), ["a", "b", "c"]))


def test_an_error_of_a_job_is_raised_once_with_its_place() -> None:
    failure = Failure(ValueError("no rows"), "Traceback: here")
    pool = Clock(2, lambda job: 1.0, fate=lambda job: failure if job == "b" else None)
    with pytest.raises(JobFailed, match="b failed on w: no rows") as caught:
        list(dispatch(pool, ["a", "b", "c", "d"]))
    assert "Traceback: here" in str(caught.value.__cause__) and pool.starts["b"] == 1


def test_a_large_grid_is_close_to_the_best_possible_time() -> None:
    """1,000 targets with two methods on 64 workers; one has a long stage on the sources. No schedule is faster than the
    longest chain of stages, nor than all work spread evenly."""
    sources = {f"source{n}": 60.0 for n in range(10)}
    chain = {**sources, "joint": 100.0}
    jobs = [*sources, "MPT-0", *(f"PT-{n}" for n in range(1000)), *(f"MPT-{n}" for n in range(1, 1000))]

    def stages(job: str) -> dict[str, float]:
        return {job: sources[job]} if job in sources else chain if job.startswith("MPT") else {}

    pool = Clock(64, lambda job: 0.0 if job in sources else 9.0 + 2.0 * (len(job) % 3), stages)
    assert len(list(dispatch(pool, jobs))) == len(jobs)
    longest = 60.0 + 100.0 + 13.0
    assert pool.time <= 1.1 * max(longest, pool.worked / 64)


def test_a_worker_with_another_model_ends_the_run() -> None:
    pool = type("Pool", (WorkerPool,), dict.fromkeys(("start", "send", "answers")))(ProgressReporter())
    plan = RunPlan((), {}, {}, {}, {}, {"model": "a"})
    workers = [PooledWorker(f"worker {number}", pool.receiver()) for number in (1, 2, 3)]
    pool.ready(workers[0], plan)
    pool.ready(workers[1], replace(plan, facts={"machine": "another"}))
    with pytest.raises(JobFailed, match=r"worker 3 loaded a different model .*'b'.* instead of .*'a'"):
        pool.ready(workers[2], replace(plan, model={"model": "b"}))
    assert [worker.job is None for worker in workers] == [True, True, False] and pool.plan is plan
