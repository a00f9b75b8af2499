"""YAML descriptions: from a few lines to a task, and what is wrong with them."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.tasks import check_name, load_task
from prompttransfer.tasks.description import read_description
from prompttransfer.tasks.rendered import Reservoir
from prompttransfer.tasks.tables import Row
from prompttransfer.tasks.task import Example, Task

Describe = Callable[..., str]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def numbered(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"text": f"text number {n} of all", "label": n % 2} for n in range(start, stop)]


@pytest.fixture
def describe(tmp_path: Path) -> Describe:
    """Write a description next to the files; return the name of the task."""

    def write(text: str, name: str = "mine.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def numbers(split: Any) -> set[int]:
    return {int(text.split()[2]) for text in split["raw"]}


def rows_of(task: Task) -> list[list[dict[str, Any]]]:
    return [split.to_list() for split in (task.train, task.validation, task.test)]


def test_a_task_in_a_few_lines(tmp_path: Path, describe: Describe) -> None:
    rows = [{"title": f"title {n}", "review": {"body": f"one two {n} four"}, "stars": n % 5 + 1} for n in range(50)]
    with (tmp_path / "reviews-1.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["title", "review.body", "stars"])
        writer.writerows((row["title"], row["review"]["body"], row["stars"]) for row in rows[:20])
    write_rows(tmp_path / "reviews-2.jsonl", rows[20:40])
    pq.write_table(pa.Table.from_pylist(rows[40:]), tmp_path / "held-out.parquet")
    task = load_task(
        describe(
            """
            name: stars
            train: [reviews-1.csv, reviews-*.jsonl]
            test: held-out.parquet
            template: "Review: {title}. {body}\\nStars:"
            fields: {body: review.body}
            label: stars
            choices: {1: bad, 2: bad, 3: fair, 4: good, 5: good}
            metric: macro-f1
            more_metrics: [accuracy]
            max_length: 256
            cut: end
            max_words: 3
            """
        )
    )
    assert task.name == "stars" and task.choices == ("bad", "fair", "good")
    assert task.metrics == ("macro-f1", "accuracy") and (task.max_length, task.cut) == (256, "end")
    assert task.origin == "reviews-1.csv, reviews-2.jsonl, held-out.parquet"
    assert (len(task.train), len(task.validation), len(task.test)) == (36, 4, 10)
    want = {f"Review: title {n}. one two {n}\nStars:": ["bad", "bad", "fair", "good", "good"][n % 5] for n in range(50)}
    got = {
        row["text"]: task.choices[row["label"]] for split in (task.train, task.validation, task.test) for row in split
    }
    assert got == want
    assert {int(raw.split()[1]) for raw in task.test["raw"]} == set(range(40, 50))


def test_free_text(tmp_path: Path, describe: Describe) -> None:
    rows = [
        {"q": f"question {n} asked", "answers": {"text": [f"answer {n}", f"the answer {n}", f"answer {n}"]}}
        for n in range(20)
    ]
    write_rows(tmp_path / "qa.jsonl", rows)
    task = load_task(
        describe("train: qa.jsonl\ntemplate: '{q}? '\nanswer: answers.text\nmetric: squad-f1\nmax_answer: 12\n")
    )
    assert task.free_text and task.choices == () and task.metric == "squad-f1" and task.max_answer == 12
    for row in task.train:
        n = row["raw"].split()[1]
        assert row["label"] == -1 and row["answer"] == f"answer {n}"
        assert row["references"] == [f"answer {n}", f"the answer {n}"]
        assert n not in row["text"].replace(f"question {n}", "")
    assert load_task(describe("train: qa.jsonl\ntemplate: '{q}'\nanswer: q\n")).metric == "exact-match"


def test_no_and_yes_are_words(tmp_path: Path, describe: Describe) -> None:
    write_rows(tmp_path / "a.jsonl", numbered(0, 20))
    assert load_task(describe("train: a.jsonl\nchoices: [no, yes]")).choices == ("no", "yes")
    assert load_task(describe("train: a.jsonl\nchoices: [1, 0]")).choices == ("1", "0")
    write_rows(tmp_path / "b.jsonl", [row | {"label": bool(row["label"])} for row in numbered(0, 20)])
    task = load_task(describe("train: b.jsonl\nchoices: {true: 'on', false: 'off'}"))
    assert task.choices == ("on", "off")
    assert all(row["label"] == 1 - int(row["raw"].split()[2]) % 2 for row in task.train)


@pytest.mark.parametrize("streaming", ["false", "true"])
@pytest.mark.parametrize("files_given", [(), ("test",), ("validation",), ("validation", "test")])
def test_splits_that_are_not_given_are_cut_from_the_training_rows(
    files_given: tuple[str, ...], streaming: str, tmp_path: Path, describe: Describe
) -> None:
    starts = {"train": 0, "validation": 10_000, "test": 20_000}
    for split, start in starts.items():
        write_rows(tmp_path / f"{split}.jsonl", numbered(start, start + (1000 if split == "train" else 30)))
    files = "".join(f"{split}: {split}.jsonl\n" for split in ("train", *files_given))
    task = load_task(describe(f"{files}streaming: {streaming}\n"))
    cut: set[int] = set()
    for split in starts:
        drawn = numbers(getattr(task, split))
        if split in files_given:
            assert drawn == set(range(starts[split], starts[split] + 30))
        else:
            share = 0.1 * (split != "train") or 0.8 + 0.1 * len(files_given)
            assert abs(len(drawn) - 1000 * share) <= (0 if streaming == "false" else 60)
            assert not cut & drawn
            cut |= drawn
    assert cut == set(range(1000))


def test_whole_table_is_scored_unless_there_are_test_rows(tmp_path: Path, describe: Describe) -> None:
    write_rows(tmp_path / "a.jsonl", numbered(0, 20))
    write_rows(tmp_path / "b.jsonl", numbered(50, 54))
    for streaming in ("", "streaming: true\n"):
        task = load_task(describe(f"train: a.jsonl\n{streaming}"), whole=True)
        assert (len(task.train), len(task.validation), numbers(task.test)) == (0, 0, set(range(20)))
        assert numbers(load_task(describe(f"train: a.jsonl\ntest: b.jsonl\n{streaming}"), whole=True).test) == set(
            range(50, 54)
        )
    assert numbers(load_task(describe("test: b.jsonl\nchoices: ['0', '1']")).test) == set(range(50, 54))


@pytest.mark.parametrize("streaming", ["false", "true"])
def test_rows_are_a_draw_that_follows_the_seed(streaming: str, tmp_path: Path, describe: Describe) -> None:
    write_rows(tmp_path / "a.jsonl", numbered(0, 500))
    text = f"train: a.jsonl\nstreaming: {streaming}\nrows: {{train: 50, validation: 7, test: 20}}\n"

    def drawn(seed: int) -> Task:
        return load_task(describe(f"{text}seed: {seed}\n"))

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert (len(first.train), len(first.validation), len(first.test)) == (50, 7, 20)
    assert rows_of(first) == rows_of(again) != rows_of(other)
    assert max(numbers(first.train)) > 250 and min(numbers(first.train)) < 250
    assert rows_of(load_task(describe(text), seed=1)) == rows_of(first)


def test_reservoir_is_uniform() -> None:
    rng, counts = np.random.default_rng(0), Counter[str]()
    for _ in range(4000):
        reservoir = Reservoir(3, rng)
        for n in range(10):
            reservoir.show(Example(str(n), "", 0))
        assert len({row.raw for row in reservoir.rows}) == 3
        counts.update(row.raw for row in reservoir.rows)
    # 4000 draws of 3 out of 10: each row 1200 times, standard deviation 29
    assert all(abs(counts[str(n)] - 1200) < 130 for n in range(10))


class Counted(Example):
    """An example that knows how many of its kind are alive."""

    alive = 0
    most = 0

    def __init__(self, *values: Any) -> None:
        super().__init__(*values)
        Counted.alive += 1
        Counted.most = max(Counted.most, Counted.alive)

    def __del__(self) -> None:
        Counted.alive -= 1


def test_streaming_keeps_only_the_drawn_rows(
    tmp_path: Path, describe: Describe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = 20_000

    def generated(*_: Any, **__: Any) -> Iterator[Any]:
        return (Row(f"row {n}", {"text": f"text number {n} of all", "label": n % 2}) for n in range(rows))

    monkeypatch.setattr("prompttransfer.tasks.files.read_rows", generated)
    monkeypatch.setattr("prompttransfer.tasks.templates.Example", Counted)
    write_rows(tmp_path / "a.jsonl", numbered(0, 1))
    task = load_task(describe("train: a.jsonl\nstreaming: true\nrows: {train: 300, validation: 50, test: 100}\n"))
    assert (len(task.train), len(task.validation), len(task.test)) == (300, 50, 100)
    assert 450 <= Counted.most < 500
    assert np.mean(list(numbers(task.train))) == pytest.approx(rows / 2, rel=0.2)


@pytest.mark.slow
def test_a_large_table_is_rendered_in_little_memory(tmp_path: Path, describe: Describe) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        file.writelines(f"number {n} {'word ' * 30},{n % 2}\n" for n in range(30_000))
    from prompttransfer.tasks.files import load_files

    tracemalloc.start()
    try:
        task = load_files(f"{tmp_path}/a.csv")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(task.train) == 24_000 and (tmp_path / "a.csv").stat().st_size > 4.8e6 and peak < 4e6


def test_bad_rows_as_described_or_as_the_run_says(tmp_path: Path, describe: Describe) -> None:
    write_rows(tmp_path / "a.jsonl", [*numbered(0, 20), {"text": "x", "label": 7}])
    text = "train: a.jsonl\nchoices: [bad, good]\n"
    for name, bad_rows in ((describe(text), "error"), (describe(f"{text}bad_rows: error\n", "strict.yaml"), "skip")):
        with pytest.raises(ValueError, match=r"a\.jsonl, row 21, column 'label': got label '7', want one of '0', '1'"):
            load_task(name, bad_rows=bad_rows)
    assert load_task(describe(f"{text}bad_rows: skip\n")).skipped == 1
    assert load_task(describe(text), bad_rows="skip").skipped == 1


def test_encoding_and_quotes_are_of_the_description(tmp_path: Path, describe: Describe) -> None:
    (tmp_path / "a.tsv").write_bytes(
        b"text\tlabel\n" + "".join(f'"été {n} passe\t{n % 2}\n' for n in range(20)).encode("latin-1")
    )
    task = load_task(describe("train: a.tsv\nencoding: latin-1\nquotes: false\n"))
    assert {*task.train["raw"], *task.validation["raw"], *task.test["raw"]} == {f'"été {n} passe' for n in range(20)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: a.jsonl", r"mine\.yaml: trian: unknown setting; did you mean 'train'\?"),
        ("train: a.jsonl\nrows: {tests: 3}", r"mine\.yaml: rows\.tests: unknown setting; did you mean 'test'\?"),
        ("train: a.jsonl\nrows: {test: 0}", r"mine\.yaml: rows\.test: Input should be greater than or equal to 1"),
        ("train: a.jsonl\nmax_words: many", r"mine\.yaml: max_words: Input should be a valid integer"),
        ("train: a.jsonl\nmetric: accurcy", r"mine\.yaml: metric: got 'accurcy', want one of accuracy"),
        ("train: a.jsonl\nanswer: label\nmetric: accuracy", r"metric: got 'accuracy', want one of .* for free text"),
        ("train: a.jsonl\nanswer: a\nlabel: b", r"got answer \(free text\) and label"),
        ("train: a.jsonl\ntemplate: no field", r"template 'no field': got fields \[\]"),
        ("train: a.jsonl\nfields: {txt: body}", r"fields: got 'txt', but the template has text; did you mean 'text'\?"),
        ("train: a.jsonl\nchoices: [a, a]", r"choices: got 'a', 'a', want at least two different answers"),
        ("train: a.jsonl\nchoices: {0: a, 1: a}", r"choices: got 'a', 'a', want at least two different answers"),
        ("train: a.jsonl\nencoding: latin9000", r"encoding: want one that Python knows, .* got 'latin9000'"),
        ('train: a.csv\ndelimiter: "||"', r"delimiter: want one character, .* got '\|\|'"),
        ("train: a.jsonl\nname: a/b", r"name: want letters, .* got 'a/b'"),
        ("train: a.jsonl\ntrain: b.jsonl", r"mine\.yaml, line 2, column 1: key 'train' is given twice"),
        ("train: [a.jsonl", r"mine\.yaml, line 1, column 16: "),
        ("- a.jsonl", r"mine\.yaml: got list, want settings"),
        ("train: a.jsonl\nchoices: 5", r"mine\.yaml: choices: .* got 5"),
        ("", r"mine\.yaml: got NoneType, want settings"),
        ("label: x", r"mine\.yaml: names no files: want train, or at least test"),
    ],
)
def test_wrong_descriptions_are_named_before_anything_is_read(text: str, message: str, describe: Describe) -> None:
    (Path(describe("")).parent / "a.jsonl").write_text("not even JSON", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        check_name(describe(text))


def test_delimiter_and_heading_are_of_the_description(tmp_path: Path, describe: Describe) -> None:
    lines = [f"{['no', 'yes'][n % 2]}^film {n}^it is number {n}" for n in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    path = describe('train: a.csv\ndelimiter: "^"\nheading: [label, title, text]\ntemplate: "{title}: {text}"\n')
    task = load_task(str(path))
    texts = {row["text"] for split in (task.train, task.validation, task.test) for row in split}
    assert task.choices == ("no", "yes") and texts == {f"film {n}: it is number {n}" for n in range(20)}


def test_files_that_are_not_there(tmp_path: Path, describe: Describe) -> None:
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml, test: .*none\.csv does not exist"):
        check_name(describe("test: none.csv"))
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml, train: .*part-\*\.csv does not exist"):
        check_name(describe("train: part-*.csv"))
    with pytest.raises(FileNotFoundError, match=r"other\.yaml does not exist"):
        check_name(str(tmp_path / "other.yaml"))


def test_columns_that_are_not_there(tmp_path: Path, describe: Describe) -> None:
    pq.write_table(pa.table({"review": [{"body": "x"}], "stars": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: there is no column 'star', only .* did you mean 'stars'\?"):
        load_task(describe("train: a.parquet\nlabel: star\nfields: {text: review.body}"))
    text = "train: a.parquet\nlabel: stars\nchoices: {1: a, 2: b}\n"
    with pytest.raises(ValueError, match=r"row 1, column 'review.bdy': there is no column 'bdy', only 'body'"):
        load_task(describe(f"{text}fields: {{text: review.bdy}}"))
    with pytest.raises(ValueError, match=r"row 1, column 'review': got a struct of body; want text"):
        load_task(describe(f"{text}fields: {{text: review}}"))


def test_yaml_of_people(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "\ufeffwords: [no, yes, on, off, n, y]\ntruth: [true, False]\nrates: [1e-3, 2.5, .5, -3E+2, 7]\n"
        "base: &base {a: 1, b: 2}\nmerged: {<<: *base, b: 3}\n",
        encoding="utf-8",
    )
    assert read_yaml(path) == {
        "words": ["no", "yes", "on", "off", "n", "y"],
        "truth": [True, False],
        "rates": [0.001, 2.5, 0.5, -300.0, 7],
        "base": {"a": 1, "b": 2},
        "merged": {"a": 1, "b": 3},
    }
    path.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        read_yaml(path)
    path.write_text("a: !!python/object:os.system x", encoding="utf-8")
    with pytest.raises(ValueError, match="could not determine a constructor"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]\n", "an alias .* refers to itself"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "aliases .* repeat",
        ),
        ("a: " + "[" * 5000, "nested too deep"),
        ("a: !!timestamp word\n", "line 1, column 4: 'word' is no timestamp"),
        ("a: !!bool perhaps\n", "line 1, column 4: 'perhaps' is no bool"),
        ("a: 2020-13-45\n", "line 1, column 4: '2020-13-45' is no timestamp"),
        ("a: 0b_\n", "line 1, column 4: '0b_' is no int"),
        ("a: " + "9" * 5000 + "\n", "line 1, column 4: '999.*is no int"),
        ("!!set word: 1\n", "not YAML that this program reads"),
        ('a: "\\ud800"\n', "not YAML: .*half of a surrogate pair"),
        ("train: " + "x" * 300 + ".csv\n", "xxx.csv does not exist"),
        ("train: a.csv\nencoding: rot13\n", "encoding: want one that Python knows"),
    ],
)
def test_yaml_that_other_readers_stumble_over(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=rf"(?s)mine\.yaml.*{message}"):
        read_description(file)
