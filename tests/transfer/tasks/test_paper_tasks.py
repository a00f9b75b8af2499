"""The papers' data sets: texts, answers, splits and scores, on invented rows with the schemas of the hub."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_fixtures import FIXTURES, HubFixture, options_row, webnlg_row, write_hub

from prompttransfer.tasks import PAPER_TASKS, check_name, load_task
from prompttransfer.tasks.metrics import score
from prompttransfer.tasks.papers import describe, load_paper
from prompttransfer.tasks.papers.fields import pad_punctuation, without_markup
from prompttransfer.tasks.task import Task

# Text and answer of the rows written by hand, as sections on text formats of the papers' code have them. The four sets
# of MRQA share a table: theirs are numbered rows.
TEXTS = {
    "glue/mnli": ("mnli premise: A man naps . hypothesis: Someone sleeps.", "0"),
    "glue/qqp": ("qqp question1: Who is it? question2: Who was it?", "0"),
    "glue/qnli": ("qnli question: Where is Oslo? sentence: Oslo is in Norway.", "0"),
    "glue/sst2": ("sst2 sentence: a fine film .", "1"),
    "glue/stsb": ("stsb sentence1: A dog runs. sentence2: A cat runs.", "2.8"),
    "glue/mrpc": ("mrpc sentence1: He went home . sentence2: Home he went .", "1"),
    "glue/rte": ("rte sentence1: Ann has a dog. sentence2: Ann has a pet.", "0"),
    "glue/cola": ("cola sentence: They drank the pub.", "0"),
    "superglue/multirc": (
        "superglue-multirc question: Who won? answer: Tom paragraph: Sent 1: Tom ran. Sent 2: He won.",
        "1",
    ),
    "superglue/boolq": ("superglue-boolq question: is tea hot passage: Tea -- Tea is a drink.", "1"),
    "superglue/wic": ("superglue-wic sentence1: The bank of a river. sentence2: A bank lends. word: bank", "0"),
    "superglue/wsc": ("superglue-wsc.fixed text: Mark told * Pete *'s aunt  that # he # was late.", "0"),
    "superglue/cb": ("superglue-cb premise: Is it cold? I think so. hypothesis: it is cold", "2"),
    "superglue/record": (
        "superglue-record record query: @placeholder is in Italy. entities: Rome, Roma, Nero "
        "passage: Rome fell. Nero sang. It burned",
        "Rome",
    ),
    "mrqa/squad": (
        "squad question: Where is François ' home ? context: It ' s in the U . S . ( 1889 ) .",
        "the U . S .",
    ),
    "mrqa/nq": (
        "nq question: What does train 1 vvvv hold ? context: [ DOC ] train 1 vvvv holds answer 1 .",
        "answer 1",
    ),
    "mrqa/hotpotqa": (
        "hotpotqa question: What does train 2 wwww hold ? context: [ DOC ] train 2 wwww holds answer 2 .",
        "answer 2",
    ),
    "mrqa/searchqa": (
        "searchqa question: What does train 3 xxxx hold ? context: [ DOC ] train 3 xxxx holds answer 3 .",
        "answer 3",
    ),
    "mrqa/newsqa": (
        "newsqa question: What does a report hold ? context: [ DOC ] a report holds answer 0 .",
        "answer 0",
    ),
    "others/winogrande": ("winogrande sentence: The cup fits the box as _ is small. option0: cup option1: box", "0"),
    "others/yelp": ("yelp_polarity sentence: Good food.\\nGo there!", "1"),
    "others/scitail": ("scitail premise: Cells divide. hypothesis: A cell can divide.", "1"),
    "others/paws": ("paws sentence1: Ann saw Bob . sentence2: Bob saw Ann .", "0"),
    "nlg/e2e": ("e2e_nlg meaning_representation: name[The Vaults], eatType[pub]", "The Vaults is a pub."),
    "nlg/webnlg": ("web_nlg triples: Oslo | is | text ; text | has | words", "Oslo is a text."),
    "nlg/commongen": ("common_gen concepts: ski, mountain", "He can ski down a mountain."),
    "extra/agnews": ("ag_news sentence: Oil is up.", "2"),
    "extra/commonsenseqa": (
        "commonsense_qa question: Which one is wet? choice1: option A of wet choice2: option B of wet "
        "choice3: option C of wet choice4: option D of wet choice5: option E of wet",
        "1",
    ),
    "extra/openbookqa": (
        "openbookqa question: Which one is hot? choice1: option A of hot choice2: option B of hot "
        "choice3: option C of hot choice4: option D of hot",
        "3",
    ),
    "extra/arc": ("ai2_arc question: What is cold? choice1: ice choice2: fire choice3: sand", "2"),
    "extra/anli": ("anli premise: Ann is tall. hypothesis: Ann is short.", "2"),
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def one_set(folder: Path, name: str, *rows: dict, **options: object) -> Task:
    """A task whose hub splits hold these rows only."""
    fixture = FIXTURES[name]
    for split in fixture.splits:
        HubFixture(fixture.folder, fixture.features, rows[0], lambda number, _: rows[number], (split,)).write(folder, 1)
    return load_paper(name, data_dir=folder, **options)


def texts_and_answers(task: Task) -> list[tuple[str, str]]:
    rows = [row for split in (task.train, task.validation) for row in split]
    return [(row["text"], row["answer"] if task.free_text else task.choices[row["label"]]) for row in rows]


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_text_and_answer_are_those_of_the_published_format(hub: Path, name: str) -> None:
    assert TEXTS[name] in texts_and_answers(load_paper(name, data_dir=hub))


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_words_take_the_place_of_digits_and_nothing_else_changes(hub: Path, name: str) -> None:
    digits, words = (load_paper(name, data_dir=hub, answers=answers) for answers in ("digits", "words"))
    assert list(digits.test["text"]) == list(words.test["text"])
    assert list(digits.test["label"]) == list(words.test["label"])
    if digits.free_text or name == "glue/stsb":
        assert digits.choices == words.choices
    else:
        assert digits.choices == tuple(map(str, range(len(words.choices))))
        assert len({word.lower() for word in words.choices}) == len(words.choices)


@pytest.mark.parametrize("name", PAPER_TASKS)
def test_a_set_loads_through_the_door_with_every_label_in_range(hub: Path, name: str) -> None:
    task = load_task(name, data_dir=hub, test_rows=5)
    assert task.name == name.replace("/", "-")
    assert len(task.train) and len(task.validation) and 0 < len(task.test) <= 5
    for split in (task.train, task.validation, task.test):
        for row in split:
            assert row["raw"] and row["text"].startswith(PAPER_TASKS[name].prefix + " ")
            if task.free_text:
                assert row["label"] == -1 and row["answer"] in row["references"]
            else:
                assert 0 <= row["label"] < len(task.choices) and not row["answer"]


def test_a_cue_is_of_the_papers_sets_only(hub: Path, tmp_path: Path) -> None:
    assert load_task("glue/rte", data_dir=hub, cue=" Label :").cue == " Label :"
    assert load_task("glue/rte", data_dir=hub).cue == ""
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(20)))
    assert load_task(str(tmp_path / "mine.csv"), cue=" Label :").cue == ""


def test_class_names_of_the_hub_are_the_words() -> None:
    named = {"glue/mnli", "glue/qqp", "glue/qnli", "glue/sst2", "glue/mrpc", "glue/rte", "glue/cola", "extra/anli"}
    named |= {"superglue/" + name for name in ("multirc", "boolq", "wic", "wsc", "cb")}
    for name in named:
        assert PAPER_TASKS[name].choices("words") == tuple(FIXTURES[name].features["label"].names)


def test_lengths_scores_and_caps_are_the_papers() -> None:
    lengths = {name: spec.max_length for name, spec in PAPER_TASKS.items()}
    assert lengths.pop("superglue/multirc") == 348
    assert {lengths.pop(name) for name in list(lengths) if name.startswith("mrqa/")} == {512}
    assert set(lengths.values()) == {256}
    metrics = {name: (spec.metric, *spec.more_metrics) for name, spec in PAPER_TASKS.items()}
    special = {
        "glue/stsb": ("pearson", "spearman"),
        "glue/cola": ("matthews",),
        "glue/mrpc": ("accuracy", "f1"),
        "glue/qqp": ("accuracy", "f1"),
        "superglue/cb": ("accuracy", "macro-f1-3"),
        "superglue/multirc": ("f1",),
        "superglue/record": ("squad-f1", "squad-em"),
        "nlg/e2e": ("bleu", "nist", "meteor", "rouge-l", "cider"),
        "nlg/webnlg": ("bleu", "meteor", "ter"),
        "nlg/commongen": ("rouge-l", "rouge-1", "rouge-2", "bleu", "meteor"),
    }
    for name, metric in metrics.items():
        usual = ("squad-f1", "squad-em") if name.startswith("mrqa/") else ("accuracy",)
        assert metric == special.get(name, usual), name
    assert {name: spec.max_train for name, spec in PAPER_TASKS.items() if spec.max_train} == {"others/yelp": 100_000}


def test_sources_and_targets_are_those_of_the_papers() -> None:
    sources = {name for name, spec in PAPER_TASKS.items() if "MPT" in spec.source_of}
    assert sources == {
        *("glue/mnli", "glue/qnli", "glue/qqp", "glue/sst2"),
        *("mrqa/squad", "superglue/record"),
    }
    assert {name for name, spec in PAPER_TASKS.items() if "DTVG" in spec.source_of} == sources
    assert sum("MPT" in spec.target_of for spec in PAPER_TASKS.values()) == 23
    dtvg = {name for name, spec in PAPER_TASKS.items() if "DTVG" in (*spec.target_of, *spec.source_of)}
    assert len(dtvg) == 26
    assert sum("MPT, 12 sources" in spec.source_of for spec in PAPER_TASKS.values()) == 6


def numbers(split: object) -> list[str]:
    """Rows of the hub in a split of SST-2 or RTE: their number, or "first"."""
    words = [text.split() for text in split["text"]]
    return [word[word.index("of") + 2] if "of" in word else "first" for word in words]


def permuted(rows: int, seed: int) -> list[str]:
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).tolist()
    return ["first" if place == 0 else str(place - 1) for place in order]


@pytest.mark.parametrize("seed", [42, 7])
def test_small_sets_cut_the_validation_rows_in_half(hub: Path, seed: int) -> None:
    task = load_paper("glue/rte", data_dir=hub, seed=seed)
    order = permuted(24, seed)
    assert numbers(task.train) == order
    assert numbers(task.validation) == order[:12] and numbers(task.test) == order[12:]
    assert all(" validation " in text for text in [*task.validation["text"], *task.test["text"]] if " of " in text)


def test_an_odd_row_is_tested(tmp_path: Path) -> None:
    task = load_paper("superglue/cb", data_dir=write_hub(tmp_path, ["superglue/cb"], rows=9))
    assert (len(task.train), len(task.validation), len(task.test)) == (9, 4, 5)


def test_large_sets_take_a_thousand_training_rows_for_validation(tmp_path: Path) -> None:
    task = load_paper("glue/sst2", data_dir=write_hub(tmp_path, ["glue/sst2"], rows=2500))
    order = permuted(2500, 42)
    assert numbers(task.validation) == order[:1000] and numbers(task.train) == order[1000:]
    assert numbers(task.test) == order and " validation " in task.test[0]["text"]


def test_splits_of_mnli_paws_and_yelp(hub: Path) -> None:
    def split_words(task: Task) -> tuple[set[str], ...]:
        known = ("train", "validation_matched", "validation_mismatched", "validation", "test")
        splits = (task.train, task.validation, task.test)
        return tuple({word for text in split["text"] for word in text.split() if word in known} for split in splits)

    mnli = load_paper("glue/mnli", data_dir=hub)
    assert split_words(mnli) == ({"train"}, {"validation_mismatched"}, {"validation_matched"})
    assert split_words(load_paper("others/paws", data_dir=hub)) == ({"train"}, {"validation"}, {"test"})
    assert split_words(load_paper("others/yelp", data_dir=hub)) == ({"train"}, {"train"}, {"test"})
    assert split_words(load_paper("others/scitail", data_dir=hub)) == ({"train"}, {"validation"}, {"validation"})


def test_yelp_trains_on_a_capped_number_of_rows(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PAPER_TASKS, "others/yelp", replace(PAPER_TASKS["others/yelp"], max_train=5))
    task = load_paper("others/yelp", data_dir=hub, seed=3)
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 12, 24)


def test_winogrande_shows_both_options(hub: Path) -> None:
    task = load_paper("others/winogrande", data_dir=hub)
    assert all("option0: Ann option1: Bob" in text or "option0: cup option1: box" in text for text in task.test["text"])


def test_every_set_of_mrqa_has_its_own_rows(hub: Path) -> None:
    numbers = {}
    for place, name in enumerate(("nq", "hotpotqa", "searchqa", "newsqa"), start=1):
        task = load_paper(f"mrqa/{name}", data_dir=hub)
        rows = [row for split in (task.train, task.validation, task.test) for row in split]
        numbers[name] = {int(row["answer"].split()[1]) for row in rows} - ({0} if name == "newsqa" else set())
        assert {number % 6 for number in numbers[name]} == {place}
        assert all(row["references"] == [row["answer"], row["answer"].upper()] for row in rows)


def test_squad_of_the_hub_keeps_all_answers_as_they_are_and_padded(hub: Path) -> None:
    task = load_paper("mrqa/squad", data_dir=hub)
    first = next(row for row in task.test if "François" in row["text"])
    assert first["references"] == ["the U . S .", "U . S .", "the U.S.", "U.S."]
    assert first["answer"] == "the U . S ."


def test_multirc_scores_predictions_against_labels_not_the_reverse(hub: Path) -> None:
    task = load_paper("superglue/multirc", data_dir=hub)
    # F1 itself would not show a swap; but predictions may be -1 (none of the choices), and labels may not.
    assert score(task.metric, [1, 1, 1, 0], [1, 1, -1, 0]) == pytest.approx(80.0)
    assert score(task.metric, [1, 0, 0, 0], [1, 1, 1, 0]) == pytest.approx(50.0)


def test_record_trains_and_is_scored_on_every_answer_against_all(hub: Path) -> None:
    task = load_paper("superglue/record", data_dir=hub)
    assert [answer for text, answer in texts_and_answers(task) if "Italy" in text] == ["Rome", "Roma"]
    italy = [row for row in task.test if "Italy" in row["text"]]
    # Scored once for each answer, as in the published code, so that a query with two counts twice.
    assert [(row["answer"], row["references"]) for row in italy] == [
        ("Rome", ["Rome", "Roma"]),
        ("Roma", ["Rome", "Roma"]),
    ]
    assert "@highlight" not in italy[0]["text"]


def test_every_answer_of_a_row_of_record(tmp_path: Path) -> None:
    fixture = FIXTURES["superglue/record"]
    several = fixture.first | {"answers": ["Rome", "Roma", "Rome"]}
    HubFixture(fixture.folder, fixture.features, several, lambda *_: several).write(tmp_path, 4)
    task = load_paper("superglue/record", data_dir=tmp_path)
    assert list(task.train["answer"]) == ["Rome", "Roma"] * 2
    assert list(task.validation["answer"]) == ["Rome", "Roma"] * 2 and len(task.test) == 2 * 4


def test_references_of_one_meaning_are_put_together_for_scoring(hub: Path) -> None:
    task = load_paper("nlg/e2e", data_dir=hub)
    assert len(task.train) == 24 and len(set(task.train["text"])) < 24
    assert len(set(task.test["text"])) == len(task.test) == 13
    assert sorted(len(row["references"]) for row in task.test) == [1, 1, *[2] * 11]


def test_webnlg_learns_every_text_and_ignores_repeated_rows_without_any(tmp_path: Path) -> None:
    fixture = FIXTURES["nlg/webnlg"]
    fixture.write(tmp_path, 6)
    silent = webnlg_row(7, "Oslo") | {"lex": {"comment": [], "lid": [], "text": [], "lang": []}}
    rows = [silent, fixture.first, webnlg_row(7, "Oslo", ["Another.", "Oslo is a text."]), silent]
    HubFixture(fixture.folder, fixture.features, rows[0], lambda number, _: rows[number + 1], ("test",)).write(
        tmp_path, 4
    )
    task = load_paper("nlg/webnlg", data_dir=tmp_path)
    assert len(task.train) == 1 + 2 * 5 and task.skipped == 0
    assert [sorted(row["references"]) for row in task.test] == [["Another.", "Oslo is a text."]]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (0.0, "0.0"),
        (0.09, "0.1"),
        (0.11, "0.1"),
        (2.5, "2.5"),
        (2.75, "2.8"),
        (4.25, "4.2"),
        (3.917, "3.9"),
        (5.0, "5.0"),
    ],
)
def test_similarity_is_the_nearest_tenth(tmp_path: Path, value: float, wanted: str) -> None:
    task = one_set(tmp_path, "glue/stsb", FIXTURES["glue/stsb"].first | {"label": value})
    assert wanted == str(np.round(value, decimals=1)) and task.scale
    assert task.choices == tuple(f"{tenths // 10}.{tenths % 10}" for tenths in range(51))
    assert task.choices[task.train[0]["label"]] == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"span1_text": "aunt", "span1_index": 3}, "Mark told Pete's * aunt *  that # he # was late."),
        (
            {"span1_text": "he", "span1_index": 5, "span2_text": "Mark", "span2_index": 0},
            "# Mark # told Pete's aunt  that * he * was late.",
        ),
        ({"span1_text": "pete", "span1_index": 2}, "Mark told * Pete *'s aunt  that # he # was late."),
        # The text has the noun elsewhere than the index says.
        ({"span1_text": "Mark", "span1_index": 4}, "* Mark * told Pete's aunt  that # he # was late."),
        ({"span1_text": "Pete's aunt", "span1_index": 2}, "Mark told * Pete's aunt *  that # he # was late."),
    ],
)
def test_wsc_marks_noun_and_pronoun(tmp_path: Path, changes: dict, wanted: str) -> None:
    task = one_set(tmp_path, "superglue/wsc", FIXTURES["superglue/wsc"].first | changes)
    assert task.train[0]["text"] == f"superglue-wsc.fixed text: {wanted}"


def test_punctuation_gets_spaces_but_accents_and_underscores_stay() -> None:
    assert (
        pad_punctuation("A_b: “naïve” 3.5%,\n e\u0301t\u0301a  x-y")
        == "A_b : “ naïve ” 3 . 5 % , e\u0301t\u0301a x - y"
    )


def test_markup_of_multirc_is_gone() -> None:
    assert without_markup("<b>Sent 1: </b>5 < 6<br/>next<br>end<br>") == "Sent 1: 5 < 6 next end"


def test_options_of_commonsenseqa_may_be_a_list_of_structures(tmp_path: Path) -> None:
    fixture = FIXTURES["extra/commonsenseqa"]
    features = fixture.features.copy()
    features["choices"] = [fixture.features["choices"] | {"text": features["id"], "label": features["id"]}]
    row = options_row("question", 5, 1, "wet") | {"question_concept": "water"}
    row["choices"] = [{"text": f"option {letter} of wet", "label": letter} for letter in "ABCDE"]
    HubFixture(fixture.folder, features, row, lambda *_: row).write(tmp_path, 2)
    task = load_paper("extra/commonsenseqa", data_dir=tmp_path)
    assert (task.train[0]["text"], task.choices[task.train[0]["label"]]) == TEXTS["extra/commonsenseqa"]


def test_names_are_checked_with_a_suggestion() -> None:
    for name in PAPER_TASKS:
        check_name(name)
    with pytest.raises(ValueError, match="unknown task 'glue/mnil'; did you mean 'glue/mnli'"):
        check_name("glue/mnil")
    with pytest.raises(FileNotFoundError, match=r"glue/rows\.csv"):
        check_name("glue/rows.csv")


def test_no_set_of_amazon_reads_yelp() -> None:
    hubs = [spec.hub for spec in PAPER_TASKS.values()]
    assert hubs.count("fancyzhx/yelp_polarity") == 1 and not any("amazon" in hub for hub in hubs)


def test_a_description_says_what_there_is() -> None:
    text = describe("glue/stsb")
    for part in ("nyu-mll/glue", "stsb sentence1: … sentence2: …", "0.0", "5.0", "pearson, spearman", "256", "DTVG"):
        assert part in text
    with pytest.raises(KeyError):
        describe("glue/none")


def documented(name: str) -> tuple[str, str]:
    """The two rows of docs/paper-tasks.md about a set."""
    spec, facts = PAPER_TASKS[name], dict(line.strip().split(": ", 1) for line in describe(name).splitlines()[1:])
    metrics, tokens = facts["metric"].removesuffix(" tokens").split("; ")
    hub = f"`{spec.hub}`{f', `{spec.config}`' if spec.config else ''}"
    asked = [f"`{name}`", f"`{facts['text']}`", facts["answers"].split("; in words ")[-1], metrics, tokens]
    origin = [f"`{name}`", hub, facts["splits"], facts["used by"]]
    return f"| {' | '.join(asked)} |", f"| {' | '.join(origin)} |"


def test_the_documentation_holds_the_sets_in_order() -> None:
    page = (Path(__file__).parents[3] / "docs" / "paper-tasks.md").read_text(encoding="utf-8")
    for rows in zip(*map(documented, PAPER_TASKS), strict=True):
        assert "\n".join(["--- |", *rows, ""]) in page
    assert all(page.count(f"| `{name}` |") == 2 for name in PAPER_TASKS)
