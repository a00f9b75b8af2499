"""Tasks: templates, splits, files, leaks."""

import bz2
import csv
import json
import random
import string
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from datasets.arrow_writer import ArrowWriter

from prompttransfer.tasks import DEMO_TASKS, drop_leaks, drop_leaks_of, load_task
from prompttransfer.tasks.leakage import leaking_rows, normalize
from prompttransfer.tasks.names import file_paths, is_file_name
from prompttransfer.tasks.task import Example, Task, split_examples, to_dataset
from prompttransfer.tasks.templates import fields_of, render, shorten
from prompttransfer.tasks.words import word_count


def write_csv(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def reviews(count: int, start: int = 0) -> list[dict[str, str]]:
    return [
        {"text": f"text number {index} here", "label": "good" if index % 3 else "bad"} for index in range(start, count)
    ]


def make_task(name: str, train: list[str], test: list[str]) -> Task:
    splits = [to_dataset([Example(text, f"T: {text}", 0) for text in texts]) for texts in (train, [], test)]
    return Task(name, *splits, choices=("no", "yes"))


def test_template_cuts_the_fields_and_keeps_its_end() -> None:
    example = render("Review: {text}\nSentiment:", {"text": "word " * 500}, 1, max_words=7)
    assert example.text == "Review: " + " ".join(["word"] * 7) + "\nSentiment:"
    assert example.raw == "word " * 500 and example.label == 1


def test_braces_in_a_text_are_text() -> None:
    assert render("{text}:", {"text": "a {b} {{c}}"}, 0).text == "a {b} {{c}}:"


def test_shorten_is_single_spaced() -> None:
    assert shorten(" a\n b\tc d ", 3) == "a b c"


@pytest.mark.parametrize("template", ["no field", "{}", "{text", "{0}"])
def test_template_without_named_fields_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="template"):
        fields_of(template)


def test_splits_are_seeded_and_partition_the_rows() -> None:
    rows = [Example(str(index), str(index), 0) for index in range(103)]
    first, again, other = (split_examples(rows, seed) for seed in (42, 42, 43))
    assert first == again != other
    assert [len(part) for part in first] == [82, 10, 11]
    assert sorted(int(row.raw) for part in first for row in part) == list(range(103))


def test_few_shot_draws_rows_in_total_and_by_seed() -> None:
    task = make_task("t", [f"row {index}" for index in range(50)], ["x"])
    draws = [task.few_shot(8, seed).train["raw"] for seed in (1, 1, 2)]
    assert list(draws[0]) == list(draws[1]) != list(draws[2])
    assert len(set(draws[0])) == 8
    assert len(task.few_shot(99, 1).train) == 50
    with pytest.raises(ValueError, match="rows: got 0"):
        task.few_shot(0, 1)


def brute_force(train: list[str], test: list[str]) -> set[int]:
    leaking = set()
    for index, text in enumerate(train):
        for other in test:
            mine, its = normalize(text), normalize(other)
            inside = (mine in its and word_count(text) >= 4) or (its in mine and word_count(other) >= 4)
            if mine and its and (mine == its or inside):
                leaking.add(index)
    return leaking


def test_leaks_are_those_of_the_definition() -> None:
    rng = random.Random(0)
    words = ["red", "ox", "A", "plan", "it's", "so-so", "extraordinary", "!!!", "42"]

    def text() -> str:
        return " ".join(rng.choices(words, k=rng.randrange(0, 9)))

    train, test = [text() for _ in range(300)], [text() for _ in range(40)]
    # long ones too: the search goes by the first 16 characters
    train += [f"before {test[3]} {test[4]} {test[5]} after", f"{test[6]} {test[7]} {test[8]}"]
    test.append(f"{train[-1]} and more of it")
    expected = brute_force(train, test)
    assert leaking_rows(train, test) == expected
    assert 0 < len(expected) < len(train)


def test_leaks_ignore_case_spaces_and_punctuation() -> None:
    train = ["A fine, FINE film!", "another one", "so a fine fine film it was", "fine, so fine a film", "...", ""]
    assert leaking_rows(train, ["a fine fine film .", "!?", "yes: fine so fine a film"]) == {0, 2, 3}


def test_short_rows_leak_only_when_equal() -> None:
    train = ["Good!", "a good film, all in all", "very good - - -", "not so very good after all"]
    assert leaking_rows(train, ["good", "very good . ."]) == {0, 2}
    assert leaking_rows(["good"], ["a good film, all in all"]) == set()


def test_sources_lose_rows_of_the_targets_tests() -> None:
    source = make_task(
        "source", ["one two three four five", "its own test row here", "kept row of it"], ["own test row here"]
    )
    target = make_task("target", ["unrelated"], ["One, two, three, four"])
    first, cleaned = drop_leaks_of([drop_leaks(target), drop_leaks(source)], [target])
    assert list(first.train["raw"]) == ["unrelated"] and first.leaked == 0
    assert list(cleaned.train["raw"]) == ["kept row of it"]
    assert cleaned.leaked == 2 and list(cleaned.test["raw"]) == ["own test row here"]


def test_training_rows_lose_validation_rows_too() -> None:
    task = make_task("t", ["one two three four", "five six seven eight", "kept"], ["five six seven eight"])
    validation = to_dataset([Example(text, text, 0) for text in ("one two three four", "five six seven eight")])
    cleaned = drop_leaks(replace(task, validation=validation))
    assert list(cleaned.train["raw"]) == ["kept"] and list(cleaned.validation["raw"]) == ["one two three four"]
    assert cleaned.leaked == 3
    judged = cleaned.on_validation()
    assert list(judged.test["raw"]) == ["one two three four"] and not len(judged.validation)


def test_one_file_is_split(tmp_path: Path) -> None:
    task = load_task(write_csv(tmp_path / "my reviews.csv", [*reviews(60)]))
    assert task.name == "my-reviews" and task.choices == ("bad", "good") and task.origin == "my reviews.csv"
    assert (len(task.train), len(task.validation), len(task.test)) == (48, 6, 6)
    row = task.train[0]
    assert row["text"] == f"{row['raw']}\nLabel:"
    assert row["label"] == int(int(row["raw"].split()[2]) % 3 != 0)


def test_two_files_stay_apart(tmp_path: Path) -> None:
    train = write_csv(tmp_path / "train.csv", reviews(40))
    test = tmp_path / "held_out.jsonl"
    test.write_text("".join(json.dumps(row) + "\n\n" for row in reviews(50, start=40)), encoding="utf-8")
    task = load_task(f"{train}:{test}", train_rows=20, test_rows=5)
    assert task.name == tmp_path.name.strip("-.")
    assert len(task.train) == 20 and len(task.test) == 5
    assert all(int(text.split()[2]) >= 40 for text in task.test["raw"])
    assert all(int(text.split()[2]) < 40 for text in task.train["raw"])


def test_comma_between_two_files_is_told_about_the_colon(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a colon joins a training and a test file"):
        load_task(f"{tmp_path}/train.csv,{tmp_path}/test.csv")


def test_colon_within_a_path_is_part_of_it(tmp_path: Path) -> None:
    assert file_paths("a:b/train.csv:c:d.TSV : e.jsonl") == [Path("a:b/train.csv"), Path("c:d.TSV"), Path("e.jsonl")]
    assert is_file_name("train.csv:test.csv") and is_file_name("./x") and not is_file_name("amazon")
    assert load_task(write_csv(tmp_path / "10:30.csv", reviews(20))).name == "10-30"


def test_left_out_rows_of_a_file_are_told(tmp_path: Path) -> None:
    notes: list[str] = []
    progress = SimpleNamespace(note=notes.append)
    train, test = write_csv(tmp_path / "a.csv", reviews(20)), write_csv(tmp_path / "b.csv", reviews(23, start=18))
    assert load_task(f"{train}:{test}", progress=progress).leaked == 2
    assert notes == ["a: left out 2 training rows that overlap with test or validation rows"]
    load_task(f"{train}:{write_csv(tmp_path / 'c.csv', reviews(22, start=19))}", progress=progress)
    assert notes.pop() == "a: left out 1 training row that overlaps with test or validation rows"
    load_task(train, progress=progress)
    assert len(notes) == 1


@pytest.mark.parametrize("column", ["review text", "a:b", "{x}", "a.b"])
def test_text_column_may_have_any_name(tmp_path: Path, column: str) -> None:
    rows = [{column: row["text"], "label": row["label"]} for row in reviews(20)]
    task = load_task(write_csv(tmp_path / "r.csv", rows), text_column=column)
    assert task.train[0]["text"] == f"{task.train[0]['raw']}\nLabel:"


def test_words_of_a_file_are_cut_on_request_only(tmp_path: Path) -> None:
    rows = [{"text": f"{n} " + "long " * 99, "label": str(n % 2)} for n in range(20)]
    path = write_csv(tmp_path / "r.csv", rows)
    assert all(len(text.split()) == 101 for text in load_task(path).train["text"])
    assert all(len(text.split()) == 8 for text in load_task(path, max_words=7).train["text"])


def test_whole_file_is_test_rows_but_a_pair_stays(tmp_path: Path) -> None:
    one, two = write_csv(tmp_path / "a.csv", reviews(4)), write_csv(tmp_path / "b.csv", reviews(26, start=20))
    task = load_task(one, whole=True)
    assert (len(task.train), len(task.validation), len(task.test)) == (0, 0, 4)
    assert len(load_task(f"{one}:{two}", whole=True).test) == 6


def test_file_options(tmp_path: Path) -> None:
    rows = [{"title": f"title {n} of many", "body": f"body {n}", "stars": n % 2 == 0} for n in range(30)]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    options = {"template": "{title} / {body}\nGood:", "label_column": "stars", "metric": "f1"}
    task = load_task(str(path), **options)
    assert task.choices == ("false", "true") and task.metric == "f1"
    assert all(text.endswith("\nGood:") and " / body " in text for text in task.train["text"])
    numbered = write_csv(tmp_path / "n.csv", [{"text": f"some words {n}", "label": str(n % 2)} for n in range(30)])
    named = load_task(numbered, choices=("negative", "positive"))
    assert named.choices == ("negative", "positive")
    assert all(row["label"] == int(row["raw"].split()[2]) % 2 for row in named.train)


def test_numeric_labels_are_ordered_by_value(tmp_path: Path) -> None:
    rows = [{"text": f"unique words {n} end", "label": str(n % 12)} for n in range(60)]
    assert load_task(write_csv(tmp_path / "n.csv", rows)).choices == tuple(map(str, range(12)))


BAD_FILES = [
    ("a.csv", "text,label\nfine words,1\n,0\n", r"a\.csv, row 2, column 'text': got nothing"),
    ("a.csv", "body,label\nfine words,1\n", r"no column 'text', only 'body', 'label'"),
    ("a.csv", "id;body;stars\n1;fine words;2\n", r"no column 'text', only 'id', 'body', 'stars'"),
    ("a.csv", "text,label\nfine,1,2\n", r"row 1: got more fields than the 2 columns"),
    ("a.csv", "text,label\nfine words\n", r"row 1, column 'label': got nothing"),
    ("a.csv", "text,label\n", r"got no rows"),
    ("a.csv", "text,label\n" + "same words,1\n" * 20, r"column 'label': got only the label '1', want 2 to"),
    ("a.csv", "text,label\nfew,1\nrows,0\n", r"got 2 rows, want at least 10"),
    ("a.jsonl", '{"text": "x", "label": 1}\n{"text": \n', r"a\.jsonl, row 2: not JSON"),
    ("a.jsonl", "[1, 2]\n", r"row 1: got list, want an object"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_files_are_named_with_row_and_column(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_task(str(tmp_path / name))


def test_other_bad_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing\.csv does not exist"):
        load_task(str(tmp_path / "missing.csv"))
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        load_task(str(tmp_path / "a.csv"))
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"got a \.xlsx file, want one of"):
        load_task(str(tmp_path / "a.xlsx"))
    train = write_csv(tmp_path / "train.csv", reviews(30))
    test = write_csv(tmp_path / "test.csv", [{"text": "a new one", "label": "ugly"}])
    with pytest.raises(
        ValueError, match=r"test\.csv, row 1, column 'label': got label 'ugly', want one of 'bad', 'good'"
    ):
        load_task(f"{train}:{test}")


def test_unknown_task_has_a_suggestion() -> None:
    with pytest.raises(ValueError, match="unknown task 'amazn'; did you mean 'amazon'"):
        load_task("amazn")


def fake_asset(folder: Path) -> Path:
    """Files of a few rows under the names and in the formats of all demo assets."""
    for name in ("amazon", "tweets", "movies", "nyt"):
        (folder / f"{name}.txt").write_text("1\t2.5\tthis one is good\n2\t-1.5\tthis one is bad\n3\t0.1\tunclear\n")
    for split in ("train", "test"):
        head = "class\ttext\nd\tstring\nclass\tmeta\n"
        rows = "earn\treuter profit rose last year\nship\tport closed on monday\n"
        (folder / f"r8-{split}.tab").write_text(head + rows)
        others = "gold\tgold was fixed lower today reuter \ncocoa\tcocoa talks went on\n"
        (folder / f"r52-{split}.tab").write_text(head + rows + others)
    films = "category,text\nplot,A man leaves home. He returns.\nreview,this is a fine film\n"
    (folder / "rotten_tomatoes.csv.bz2").write_bytes(bz2.compress(films.encode()))
    arrows = {
        "sst2": ("sentence",),
        "mrpc": ("sentence1", "sentence2"),
        "rte": ("sentence1", "sentence2"),
        "cb": ("premise", "hypothesis"),
        "boolq": ("passage", "question"),
    }
    for name, fields in arrows.items():
        columns = {field: ["some words of text", "more words of text"] for field in fields}
        label = {"answer": [True, False]} if name == "boolq" else {"label": [1, 0]}
        with ArrowWriter(path=str(folder / f"{name}.arrow")) as writer:
            writer.write_table(pa.table({**columns, **label}))
            writer.finalize()
    return folder


@pytest.mark.parametrize("name", DEMO_TASKS)
def test_demo_templates_render_the_rows_of_their_files(name: str, tmp_path: Path) -> None:
    demo = DEMO_TASKS[name]
    folder = fake_asset(tmp_path)
    for split in demo.splits:
        rows = list(demo.rows(folder, split))
        assert len(rows) == 2 and len({label for _, label in rows}) == 2
        for fields, label in rows:
            assert set(fields) == {field for _, field, _, _ in string.Formatter().parse(demo.template) if field}
            example = render(demo.template, fields, label, max_words=demo.max_words)
            assert all(value in example.text for value in fields.values()) and example.text.endswith(":")
            assert demo.choices[label]


def test_bad_task_is_refused() -> None:
    empty = to_dataset([])
    with pytest.raises(ValueError, match="want at least two answers"):
        Task("t", empty, empty, empty, choices=("yes",))
    with pytest.raises(ValueError, match="got metric 'bleu'"):
        Task("t", empty, empty, empty, choices=("no", "yes"), metric="bleu")
