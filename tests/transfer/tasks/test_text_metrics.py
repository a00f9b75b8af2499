"""Metrics of free text: published numbers, cases by hand, literal formulas, and what holds for any text."""

import math
import random
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as torchmetrics_squad

from prompttransfer.tasks.text_metrics import TEXT_METRICS, majority_text_score, missing, require, text_score
from prompttransfer.tasks.text_metrics.answers import normalise
from prompttransfer.tasks.text_metrics.tokens import tokenize, words

SCORING = "prompttransfer.tasks.text_metrics.scoring"

VOCABULARY = ["red", "fox", "dog", "sat", "mat", "hill"]
SENTENCE = st.lists(st.sampled_from(VOCABULARY), min_size=0, max_size=9).map(" ".join)
ROWS = st.lists(st.tuples(st.lists(SENTENCE, min_size=1, max_size=3), SENTENCE), min_size=1, max_size=5)

# The example sentences of nltk's documentation, and of papers on BLEU and NIST.
GUIDE = "It is a guide to action which ensures that the military always obeys the commands of the party"
TROOPS = "It is to insure the troops forever hearing the activity guidebook that party direct"
COMMANDS = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]


@pytest.fixture(autouse=True)
def small_wordnet(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces nltk's WordNet, which would be downloaded: only car and auto are synonyms."""
    if "real_wordnet" in request.fixturenames:
        return
    lemmas = [SimpleNamespace(name=lambda: "car"), SimpleNamespace(name=lambda: "auto")]
    synset = SimpleNamespace(lemmas=lambda: lemmas)
    wordnet = SimpleNamespace(synsets=lambda word: [synset] if word in ("car", "auto") else [])
    monkeypatch.setattr("nltk.corpus.wordnet", wordnet)
    monkeypatch.setattr(f"{SCORING}.has_wordnet", lambda: True)


@pytest.fixture
def real_wordnet() -> None:
    if missing("meteor"):
        pytest.skip("nltk has no WordNet data here")


def grams(tokens: list[str], size: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[first : first + size]) for first in range(len(tokens) - size + 1)]


# --- answers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple,\ta day", "apple day"),
        ("U.S.A.", "usa"),
        ("theory of another", "theory of another"),
        ("a", ""),
    ],
)
def test_answers_are_normalised_as_in_squad(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_squad_scores_by_hand() -> None:
    references = [["Denver Broncos", "The Broncos"], ["1976"], ["a cat"]]
    predictions = ["the Denver Broncos team", "in 1977", "the cat."]
    # 2 of 2 and 3 words in common: 0.8; against "broncos" it is 0.5
    assert text_score("squad-f1", references, predictions) == pytest.approx(100 * (0.8 + 0 + 1) / 3)
    assert text_score("squad-em", references, predictions) == pytest.approx(100 / 3)
    # a repeated word matches once: precision 1/3, recall 1
    assert text_score("squad-f1", [["dog"]], ["dog dog dog"]) == pytest.approx(50.0)


def test_an_answer_without_words_matches_its_like_only() -> None:
    assert text_score("squad-f1", [["the"], ["cat"], ["the"]], ["a", "the", "cat"]) == pytest.approx(100 / 3)


PHRASE = st.text(alphabet="ab t.,'he-AT\t", max_size=14)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.lists(PHRASE, min_size=1, max_size=3), PHRASE), min_size=1, max_size=4))
def test_squad_scores_are_those_of_torchmetrics(rows: list[tuple[list[str], str]]) -> None:
    references, predictions = map(list, zip(*rows, strict=True))
    expected = torchmetrics_squad(
        [{"prediction_text": text, "id": str(index)} for index, text in enumerate(predictions)],
        [{"answers": {"answer_start": [0], "text": row}, "id": str(index)} for index, row in enumerate(references)],
    )
    assert text_score("squad-f1", references, predictions) == pytest.approx(expected["f1"].item(), rel=1e-5)
    assert text_score("squad-em", references, predictions) == pytest.approx(expected["exact_match"].item(), rel=1e-5)


def test_exact_match_minds_case_but_not_blanks_around() -> None:
    assert text_score("exact-match", [["Yes", "Sure"], ["No"]], [" Sure\n", "no"]) == 50.0


# --- BLEU and TER


def test_bleu_of_sacrebleus_readme() -> None:
    references = [
        ["The dog bit the man.", "The dog had bit the man."],
        ["It was not unexpected.", "No one was surprised."],
        ["The man bit him first.", "The man had bitten the dog."],
    ]
    predictions = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    assert text_score("bleu", references, predictions) == pytest.approx(48.530827009929865)


def literal_bleu(references: list[list[list[str]]], predictions: list[list[str]]) -> float:
    """Papineni et al. 2002, matches clipped to the reference that has most, closest length; no smoothing."""
    log_precision, given_length, wanted_length = 0.0, 0, 0
    for size in range(1, 5):
        hits = total = 0
        for row, prediction in zip(references, predictions, strict=True):
            for gram in set(grams(prediction, size)):
                most = max(grams(answer, size).count(gram) for answer in row)
                hits += min(grams(prediction, size).count(gram), most)
            total += len(grams(prediction, size))
        log_precision += math.log(hits / total) / 4
    for row, prediction in zip(references, predictions, strict=True):
        given_length += len(prediction)
        wanted_length += min((abs(len(answer) - len(prediction)), len(answer)) for answer in row)[1]
    return 100 * math.exp(log_precision + min(0.0, 1 - wanted_length / given_length))


def test_bleu_takes_rows_with_more_or_fewer_references() -> None:
    references = [COMMANDS, ["red fox sat on the hill"], ["a dog sat on a mat", "the dog sat on the mat today"]]
    predictions = [GUIDE, "red fox sat on a hill", "the dog sat on the mat"]
    split = [[answer.split() for answer in row] for row in references]
    expected = literal_bleu(split, [prediction.split() for prediction in predictions])
    assert text_score("bleu", references, predictions) == pytest.approx(expected)


def test_ter_by_hand() -> None:
    references = [["there is a cat on the mat", "a cat is on the mat"], ["the dog ran home"]]
    # one substitution over a mean length of 6.5
    assert text_score("ter", references[:1], ["the cat is on the mat"]) == pytest.approx(100 / 6.5)
    # and one shift of "home" over 4: edits and lengths are added up before they are divided
    assert text_score("ter", references, ["the cat is on the mat", "home the dog ran"]) == pytest.approx(200 / 10.5)


# --- ROUGE


def test_rouge_of_its_readme() -> None:
    references, predictions = (
        [["The quick brown fox jumps over the lazy dog"]],
        ["The quick brown dog jumps on the log."],
    )
    assert text_score("rouge-1", references, predictions) == pytest.approx(100 * 2 * 6 / (8 + 9))
    assert text_score("rouge-2", references, predictions) == pytest.approx(100 * 2 * 2 / (7 + 8))
    assert text_score("rouge-l", references, predictions) == pytest.approx(100 * 2 * 5 / (8 + 9))


def common_subsequence(first: list[str], second: list[str]) -> int:
    if not first or not second:
        return 0
    if first[0] == second[0]:
        return 1 + common_subsequence(first[1:], second[1:])
    return max(common_subsequence(first[1:], second), common_subsequence(first, second[1:]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ROWS)
def test_rouge_is_the_literal_formula_with_the_best_reference(rows: list[tuple[list[str], str]]) -> None:
    references, predictions = map(list, zip(*rows, strict=True))

    def f1(matches: int, first: int, second: int) -> float:
        return 2 * matches / (first + second) if matches else 0.0

    for size in (1, 2):
        best = [
            max(
                f1(
                    sum((Counter(grams(answer.split(), size)) & Counter(grams(text.split(), size))).values()),
                    len(grams(answer.split(), size)),
                    len(grams(text.split(), size)),
                )
                for answer in row
            )
            for row, text in rows
        ]
        assert text_score(f"rouge-{size}", references, predictions) == pytest.approx(100 * np.mean(best))
    best = [
        max(
            f1(common_subsequence(answer.split(), text.split()), len(answer.split()), len(text.split()))
            for answer in row
        )
        for row, text in rows
    ]
    assert text_score("rouge-l", references, predictions) == pytest.approx(100 * np.mean(best))


# --- NIST


def test_nist_is_that_of_mteval_v13a(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own output (with -c: case-sensitive) for several references, where nltk gives 3.3709 and 1.4619."""
    monkeypatch.setattr("prompttransfer.tasks.text_metrics.nist.tokenize", str.split)
    assert text_score("nist", [COMMANDS], [GUIDE]) == pytest.approx(5.0379, abs=5e-5)
    assert text_score("nist", [COMMANDS], [TROOPS]) == pytest.approx(2.1139, abs=5e-5)


def literal_nist(references: list[list[list[str]]], predictions: list[list[str]]) -> float:
    """Equation 3 of Doddington 2002; n-grams that no prediction is long enough for add nothing."""
    answers = [answer for row in references for answer in row]

    def count(gram: tuple[str, ...]) -> int:
        return sum(grams(answer, len(gram)).count(gram) for answer in answers) if gram else sum(map(len, answers))

    total = 0.0
    for size in range(1, 6):
        information, asked = 0.0, 0
        for row, prediction in zip(references, predictions, strict=True):
            predicted_grams = grams(prediction, size)
            asked += len(predicted_grams)
            for gram in set(predicted_grams):
                times = min(predicted_grams.count(gram), max(grams(answer, size).count(gram) for answer in row))
                if times:
                    information += times * math.log2(count(gram[:-1]) / count(gram))
        total += information / max(asked, 1)
    wanted = sum(sum(map(len, row)) / len(row) for row in references)
    ratio = min(1.0, sum(map(len, predictions)) / wanted) if wanted else 0.0
    return total * math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2) if ratio else 0.0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS)
def test_nist_is_the_literal_formula(rows: list[tuple[list[str], str]]) -> None:
    references, predictions = map(list, zip(*rows, strict=True))
    expected = literal_nist(
        [[answer.split() for answer in row] for row in references], [text.split() for text in predictions]
    )
    assert text_score("nist", references, predictions) == pytest.approx(expected, abs=1e-8)


def test_nist_halves_at_two_thirds_of_the_length() -> None:
    # 2 of 3 words: the information of each is log2(3), and of each bigram 0
    assert text_score("nist", [["red fox sat"]], ["red fox"]) == pytest.approx(math.log2(3) / 2)


# --- CIDEr-D


def literal_cider(references: list[list[list[str]]], predictions: list[list[str]]) -> float:
    """Equation 4 of Vedantam et al. 2015 over dense vectors of all n-grams, term frequencies as counts."""
    scores = []
    for row, prediction in zip(references, predictions, strict=True):
        similarities = []
        for answer in row:
            for size in range(1, 5):
                space = sorted({g for text in (prediction, answer) for g in grams(text, size)})
                rarity = [
                    math.log(len(references))
                    - math.log(max(1, sum(any(g in grams(other, size) for other in others) for others in references)))
                    for g in space
                ]
                ours, theirs = (
                    np.array([grams(text, size).count(g) for g in space]) * np.array(rarity)
                    for text in (prediction, answer)
                )
                norms = np.linalg.norm(ours) * np.linalg.norm(theirs)
                cosine = np.minimum(ours, theirs) @ theirs / norms if norms else 0.0
                similarities.append(cosine * math.exp(-((len(prediction) - len(answer)) ** 2) / 72))
        scores.append(10 * np.mean(similarities))
    return float(np.mean(scores))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROWS)
def test_cider_is_the_literal_formula(rows: list[tuple[list[str], str]]) -> None:
    references, predictions = map(list, zip(*rows, strict=True))
    expected = literal_cider(
        [[answer.split() for answer in row] for row in references], [text.split() for text in predictions]
    )
    assert text_score("cider", references, predictions) == pytest.approx(expected, abs=1e-8)


def test_cider_by_hand() -> None:
    references = [["red fox sat down"], ["old men ate bread"]]
    assert text_score("cider", references, ["Red fox sat down.", "Old men, ate bread"]) == pytest.approx(10)
    # of the second row 3 of 4 words and 1 of 3 pairs match, and no longer run
    second = (3 / 4 + 1 / 3) / 4
    assert text_score("cider", references, ["red fox sat down", "old men take bread"]) == pytest.approx(
        10 * (1 + second) / 2
    )
    # one word too many, as rare as the others: cosines sqrt(n / (n + 1)) for 4, 3, 2 and 1 runs that match
    longer = sum(math.sqrt(n / (n + 1)) for n in (4, 3, 2, 1)) / 4 * math.exp(-1 / 72)
    assert text_score("cider", references, ["red fox sat down today", "old men ate bread"]) == pytest.approx(
        10 * (1 + longer) / 2
    )


def test_cider_of_words_that_all_rows_have_is_nothing() -> None:
    assert text_score("cider", [["red fox sat down"]] * 2, ["red fox sat down"] * 2) == 0.0


# --- METEOR


def test_meteor_of_nltks_documentation() -> None:
    assert text_score("meteor", [COMMANDS[:1]], [GUIDE]) == pytest.approx(0.6944, abs=5e-5)
    assert text_score("meteor", [["this is a cat"]], ["non matching hypothesis"]) == 0.0


def test_meteor_by_hand() -> None:
    # all three words in one chunk; exact words, a stem, a synonym
    for prediction in ("the car stops", "the car stopping", "the auto stops"):
        assert text_score("meteor", [["the car stops"]], [prediction]) == pytest.approx(1 - 0.5 / 27)
    # precision 1, recall 2/3 with weight 0.9, two chunks of two matches
    mean = 1 * (2 / 3) / (0.9 * 1 + 0.1 * (2 / 3))
    assert text_score("meteor", [["the car stops"]], ["stops the"]) == pytest.approx(mean * 0.5)
    # the best reference counts, and rows are averaged
    assert text_score("meteor", [["no", "the car stops"], ["red"]], ["the car stops", "fox"]) == pytest.approx(
        (1 - 0.5 / 27) / 2
    )


@pytest.mark.usefixtures("real_wordnet")
def test_meteor_finds_synonyms_in_wordnet() -> None:
    assert text_score("meteor", [["car stop here"]], ["auto halt here"]) == pytest.approx(1 - 0.5 / 27)


# --- any metric


def test_tokens_are_those_of_mteval() -> None:
    assert tokenize('The "Eagle" costs £20.5, e.g. 1-2 x&amp;y.') == (
        ["the", '"', "eagle", '"', "costs", "£20.5", ",", "e", ".", "g", ".", "1", "-", "2", "x", "&", "y", "."]
    )
    assert words("It's near: Café Sicilia, no. 5!") == ["it's", "near", "café", "sicilia", "no", "5"]


# Score of a perfect prediction if rows share no words and have one reference. NIST has no such number.
PERFECT = {
    **dict.fromkeys(("exact-match", "squad-f1", "squad-em", "bleu", "rouge-1", "rouge-2", "rouge-l"), 100.0),
    "ter": 0.0,
    "cider": 10.0,
    "meteor": 1 - 0.5 / 6**3,  # one chunk of six words
}


@pytest.mark.parametrize("metric", sorted(PERFECT))
def test_a_perfect_prediction_has_the_best_score(metric: str) -> None:
    texts = [" ".join(f"{word}{row}" for word in VOCABULARY) for row in range(3)]
    assert text_score(metric, [[text] for text in texts], texts) == pytest.approx(PERFECT[metric])


@pytest.mark.parametrize("metric", sorted(TEXT_METRICS))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=ROWS, seed=st.integers(0, 99))
def test_scores_are_bounded_and_blind_to_order(metric: str, rows: list[tuple[list[str], str]], seed: int) -> None:
    references, predictions = map(list, zip(*rows, strict=True))
    before = text_score(metric, references, predictions)
    assert 0 <= before <= {"meteor": 1, "cider": 10, "nist": math.inf, "ter": math.inf}.get(metric, 100) + 1e-9
    chance = random.Random(seed)
    mixed = [(chance.sample(row, len(row)), text) for row, text in chance.sample(rows, len(rows))]
    assert text_score(metric, *map(list, zip(*mixed, strict=True))) == pytest.approx(before, abs=1e-7)


@pytest.mark.parametrize("metric", sorted(TEXT_METRICS))
def test_empty_texts_are_scored(metric: str) -> None:
    worst = text_score(metric, [["red fox sat down"], ["old men ate bread"]], ["", ""])
    assert worst == (100.0 if metric == "ter" else 0.0)
    assert math.isfinite(text_score(metric, [[""], ["old men ate bread"]], ["red fox", ""]))


def test_the_majority_answer_is_right_for_most_rows() -> None:
    references = [["Paris", "paris"], ["Paris"], ["London"], ["London", "London"], ["Paris"]]
    assert majority_text_score("exact-match", references) == 60.0
    assert majority_text_score("squad-em", references) == 60.0
    # of equally frequent ones the first by letters: "a", which has no words in common with "b c"
    assert majority_text_score("rouge-1", [["b c"], ["a"]]) == 50.0


# --- what is not there


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SCORING}.find_spec", lambda name: None)
    for metric in ("exact-match", "squad-f1", "squad-em"):
        assert missing(metric) is None
    with pytest.raises(
        ImportError, match=r"metric 'bleu' needs sacrebleu: pip install \"promptkernels\[generation\]\""
    ):
        require("bleu")
    with pytest.raises(ImportError, match="metric 'meteor' needs sacrebleu and nltk"):
        text_score("meteor", [["a"]], ["a"])


def test_missing_wordnet_is_no_other_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{SCORING}.has_wordnet", lambda: False)
    assert missing("rouge-l") is None
    with pytest.raises(ImportError, match=r"WordNet, which nltk does not find: python -m nltk\.downloader wordnet"):
        require("meteor")


@pytest.mark.slow
def test_names_need_no_package() -> None:
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('sacrebleu', 'nltk', 'rouge_score')))\n"
        "from prompttransfer.tasks.text_metrics import TEXT_METRICS, missing, text_score\n"
        "print(text_score('squad-f1', [['a cat']], ['cat']), sum(missing(name) is not None for name in TEXT_METRICS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["100.0", "8"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("blue", [["a"]], ["a"]), "metric: got 'blue', want one of exact-match, squad-f1"),
        (("squad-f1", [["a"], ["b"]], ["a"]), "predictions: got 1 for 2 rows"),
        (("squad-f1", [], []), "at least one row"),
        (("squad-f1", [["a"], []], ["a", "b"]), "at least one right answer for every row"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_score(*arguments)
