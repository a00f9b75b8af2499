"""Split a run's jobs into static shards with their own folders, and join them; for job arrays of a cluster."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from prompttransfer.files.json_file import read_json
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.run_folder import RunFolder
from prompttransfer.runs.worker import SOURCES, RunPlan
from prompttransfer.settings.run import RunConfig

JOBS = "jobs.json"


@dataclass(frozen=True)
class Shard:
    """A part of the jobs: all methods on every count-th pair of target and seed. Number 0 is the sources."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse "sources", or for example "2/8", the second of eight."""
        if text == "sources":
            return cls(0, 1)
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        number, count = map(int, match.groups()) if match else (0, 0)
        if not 1 <= number <= count:
            raise ValueError(f"shard: got {text!r}, want `sources` or a part such as 2/8")
        return cls(number, count)

    def folder(self, output: Path) -> Path:
        """Folder of the shard, below the run folder."""
        return output / "shards" / (f"{self.number}-of-{self.count}" if self.number else "sources")

    def jobs(self, plan: RunPlan) -> dict[str, str]:
        """Its jobs with their keys."""
        groups = [group for group in dict.fromkeys(plan.groups[job] for job in plan.order) if group != SOURCES]
        own = {SOURCES} if not self.number else set(groups[self.number - 1 :: self.count])
        return {job: key for job, key in plan.keys.items() if plan.groups[job] in own}


def collect(output: Path, progress: ProgressReporter | None = None) -> Path:
    """Join the finished rows of a run's shards into its run folder.

    Args:
        output: the run folder; its folder `shards` has the shards.

    Raises:
        ValueError: there are no shards, or they belong to different runs.
    """
    progress = progress or ProgressReporter()
    shards = sorted(path.parent for path in (output / "shards").glob(f"*/{JOBS}"))
    if not shards:
        raise ValueError(f"{output} has no shards; want the --output of `prompttransfer compare --shard`")
    settings, keys, results = (
        [read_json(shard / name) for shard in shards] for name in ("config.json", JOBS, "results.json")
    )
    for shard, shard_keys in zip(shards, keys, strict=True):
        if shard_keys != keys[0]:
            raise ValueError(
                f"{shard} and {shards[0]} belong to different runs: their settings, data or models differ; delete the "
                "one that does not belong here"
            )
    parts = {int(shard.name.rpartition("-")[2]) for shard in shards if shard.name != "sources"}
    if len(parts) > 1:
        raise ValueError(
            f"{output / 'shards'}: got shards of {' and '.join(map(str, sorted(parts)))}; want shards of one division"
        )
    missing = [str(n) for count in parts for n in range(1, count + 1) if not Shard(n, count).folder(output).is_dir()]
    if missing:
        progress.warn(f"shards that have not started: {', '.join(missing)} of {max(parts)}")
    for shard, result in zip(shards, results, strict=True):
        if not result["finished"]:
            progress.warn(f"{shard} is not finished")
    config = RunConfig(**settings[0] | {"output": str(output)})
    facts = {
        name: value for name, value in results[0].items() if name not in ("settings", "sources", "rows", "finished")
    }
    with RunFolder(output, config, facts, keys[0], progress) as run:
        for shard in shards:
            run.take(shard)
        run.collect()
    return output
