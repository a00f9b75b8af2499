"""Texts in, answers out: `prompttransfer predict`, and prompt files that are enough for it."""

import gzip
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tiny import VOCABULARY, WORDS, tiny_llama, tiny_tokenizer
from torch import Tensor
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.interchange import Card, read_card, read_factors, read_trained, write_prompt
from prompttransfer.models import Backbone
from prompttransfer.runs.compare import compare
from prompttransfer.serving.predict import Predictor
from prompttransfer.settings.reading import Reading

runner = CliRunner()
KNOWN = {"model": "m", "template": "{text} Answer:", "choices": ("no", "yes")}
TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]


def run(*arguments: object, stdin: str | bytes | None = None) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture
def prompt() -> Tensor:
    return torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def loaded(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The model that every file asks for."""
    for module in ("evaluate", "predict"):
        monkeypatch.setattr(f"prompttransfer.serving.{module}.load_backbone", lambda *_, **options: backbone)
    return backbone


def stored(path: Path, prompt: Tensor, **card: Any) -> Path:
    write_prompt(path, prompt, Card(**(KNOWN | card)).metadata())
    return path


def ids_of(text: str) -> list[int]:
    return [VOCABULARY.index(word) for word in text.split()]


@torch.no_grad()
def logits(backbone: Backbone, prompt: Tensor, text: str, answer: list[int]) -> Tensor:
    """(A, V): what the model says before each token of an answer, for one row without padding."""
    model = backbone.model
    embed = model.get_input_embeddings()
    row = torch.cat([prompt, embed(torch.tensor(ids_of(text)))])[None]
    if not backbone.seq2seq:
        written = embed(torch.tensor(answer[:-1], dtype=torch.int64))[None]
        return model(inputs_embeds=torch.cat([row, written], dim=1)).logits[0, -len(answer) :]
    return model(inputs_embeds=row, decoder_input_ids=torch.tensor([[0, *answer[:-1]]])).logits[0]


def shares(backbone: Backbone, prompt: Tensor, text: str, choices: tuple[str, ...] = ("no", "yes")) -> list[float]:
    """Softmax of the logits of the choices' tokens."""
    scores = logits(backbone, prompt, f"{text} Answer:", [0])[0]
    return scores[[VOCABULARY.index(choice) for choice in choices]].double().softmax(0).tolist()


def test_a_line_of_json_for_every_text(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt)
    result = run("predict", file, *TEXTS, "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    for line in lines:
        no, yes = shares(loaded, prompt, line["text"])
        assert line["scores"] == {"no": pytest.approx(no, abs=1e-4), "yes": pytest.approx(yes, abs=1e-4)}
        assert line["label"] == ("yes" if yes > no else "no")
    shown = run("predict", file, *TEXTS, "-q")
    assert all(text in shown.stdout for text in TEXTS) and "yes (%)" in shown.stdout
    assert f"{100 * lines[0]['scores']['yes']:.1f}" in shown.stdout


def test_texts_from_anywhere_are_the_same_texts(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, columns={"text": "review"})
    (tmp_path / "t.txt").write_text("\n".join(TEXTS) + "\n")
    (tmp_path / "t.csv").write_text("id,review\n" + "".join(f"{n},{text}\n" for n, text in enumerate(TEXTS)))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    wanted = run("predict", file, *TEXTS, "--json").stdout
    assert run("predict", file, "--json", stdin="\n".join(TEXTS)).stdout == wanted
    assert run("predict", file, "--file", tmp_path / "t.txt", "--json").stdout == wanted
    assert run("predict", file, "--file", tmp_path / "t.csv", "--json").stdout == wanted
    assert run("predict", file, "--file", tmp_path / "t.jsonl", "--text-column", "body", "--json").stdout == wanted
    bad = run("predict", file, "--file", tmp_path / "t.jsonl")
    assert bad.exit_code == 2 and "'review'" in bad.stderr and "t.jsonl" in bad.stderr
    for arguments, message in (
        ([TEXTS[0], "--file", tmp_path / "t.txt"], "want one of them"),
        (["--file", tmp_path / "none.txt"], "none.txt does not exist"),
    ):
        bad = run("predict", file, *arguments)
        assert bad.exit_code == 2 and message in bad.stderr
    assert run("predict", file, stdin="").exit_code == 2
    bad = run("predict", file, TEXTS[0], " ")
    assert bad.exit_code == 2 and "text 2 is empty" in bad.stderr


def test_mistakes_in_texts_are_told_before_the_model_is_loaded(prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, model="./nowhere", columns={"text": "review"})
    (tmp_path / "t.csv").write_text("body\nw1\n")
    (tmp_path / "t.txt").write_bytes(gzip.compress(b"w1\n"))
    for arguments, message in (
        ([""], "text 1 is empty"),
        (["--file", tmp_path / "t.csv"], "no column 'review'"),
        (["--file", tmp_path / "t.txt"], "t.txt: this is a gzip file"),
    ):
        bad = run("predict", file, *arguments)
        assert bad.exit_code == 2 and message in bad.stderr
    assert "no such folder" in run("predict", file, "w1").stderr


def test_a_text_of_several_fields(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, template="{one} w0 {two} Answer:", max_words=1)
    row = {"one": "w1 w2", "two": "w3"}
    line = json.loads(run("predict", file, json.dumps(row), "--json").stdout)
    assert line["scores"]["yes"] == pytest.approx(shares(loaded, prompt, "w1 w0 w3")[1], abs=1e-4)
    for text in ("w1", '{"one": "w1"}', "[]"):
        result = run("predict", file, text)
        assert result.exit_code == 2 and '{"one": "…", "two": "…"}' in result.stderr
    with pytest.raises(ValueError, match="a row without two, want it for the text"):
        Predictor.open(file)([{"one": "w1"}])


def test_the_cue_of_a_card_is_read(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, cue=" w8")
    result = run("predict", file, "w1 w2", "--json")
    if loaded.seq2seq:
        assert result.exit_code == 2 and "cue: got ' w8' for an encoder-decoder" in result.output
        return
    scores = logits(loaded, prompt, "w1 w2 Answer: w8", [0])[0]
    want = scores[[VOCABULARY.index(choice) for choice in ("no", "yes")]].double().softmax(0).tolist()
    assert list(json.loads(result.stdout)["scores"].values()) == pytest.approx(want, abs=1e-4)


def test_whole_answers_and_written_ones(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, choices=("yes w1", "yes w2", "no"), scoring="full")
    scores = json.loads(run("predict", file, "w3", "--json").stdout)["scores"]
    means = []
    for choice in scores:
        ids = [*ids_of(choice), VOCABULARY.index("</s>")]
        log_probabilities = logits(loaded, prompt, "w3 Answer:", ids).double().log_softmax(-1)
        means.append(log_probabilities[range(len(ids)), ids].mean())
    assert list(scores.values()) == pytest.approx(torch.stack(means).softmax(0).tolist(), abs=1e-4)
    file = stored(tmp_path / "q.safetensors", prompt, choices=(), scoring="generate", max_answer=1)
    line = json.loads(run("predict", file, "w3", "--json").stdout)
    first = int(logits(loaded, prompt, "w3 Answer:", [0])[0].argmax())
    second = int(logits(loaded, prompt, "w3 Answer:", [first, 0])[1].argmax())
    wanted = " ".join(VOCABULARY[token] for token in (first, second) if not VOCABULARY[token].startswith("<"))
    assert line == {"text": "w3", "label": wanted}


def test_options_go_before_the_card(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, template="w9 {text} w9", choices=("w1", "w2"))
    options = ["--template", "{words} Answer:", "--choices", "maybe,no,yes"]
    line = json.loads(run("predict", file, "w3", *options, "--json").stdout)
    wanted = shares(loaded, prompt, "w3", ("maybe", "no", "yes"))
    assert list(line["scores"].values()) == pytest.approx(wanted, abs=1e-4) and line["words"] == "w3"
    many = run("predict", file, "w3", *options[:2], "--choices", ",".join(WORDS[:9]), "-q")
    assert "share (%)" in many.stdout and "w3" in many.stdout


def test_files_that_do_not_say_enough(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    for card, message in (
        ({"model": ""}, "does not say which model it belongs to; want --model"),
        ({"template": ""}, "does not say how its texts are worded; want --template"),
        ({"choices": ()}, "does not say what the answers are; want --choices"),
    ):
        file = stored(tmp_path / "p.safetensors", prompt, **card)
        result = run("predict", file, "w1")
        assert result.exit_code == 2 and f"{file} {message}" in result.stderr
    wide = stored(tmp_path / "wide.safetensors", torch.ones(3, 20))
    result = run("predict", wide, "w1")
    assert result.exit_code == 2
    assert f"{wide}: got a prompt of width 20, the model wants 16; it was trained with m" in result.stderr
    other = stored(tmp_path / "other.safetensors", prompt, model_fingerprint="0" * 16)
    result = run("predict", other, "w1")
    assert result.exit_code == 0 and "trained on a model with other weights" in result.stderr
    (tmp_path / "broken.safetensors").write_bytes(b"0" * 40)
    result = run("predict", tmp_path / "broken.safetensors", "w1")
    assert result.exit_code == 2 and "broken.safetensors: not a readable safetensors file" in result.stderr


def test_files_of_a_run_are_all_that_predict_and_evaluate_need(tmp_path: Path) -> None:
    """Down to the score: answers to the test rows, given by `predict`, are as good as the run says."""
    model = tmp_path / "model"
    tiny_llama().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    generator = torch.Generator().manual_seed(0)
    for name, word in (("goal", "w3"), ("red", "w0"), ("green", "w1")):
        rows = []
        for number in range(60):
            picks = torch.randint(10, 40, (5,), generator=generator).tolist()
            text = " ".join([f"w{pick}" for pick in picks] + [word] * (number % 2))
            rows.append(json.dumps({"review": text, "stars": "yes" if number % 2 else "no"}) + "\n")
        (tmp_path / f"{name}-train.jsonl").write_text("".join(rows[:40]))
        (tmp_path / f"{name}-test.jsonl").write_text("".join(rows[40:]))
        description = f"train: {name}-train.jsonl\ntest: {name}-test.jsonl\nlabel: stars\n"
        description += 'template: "{text} Answer:"\nfields: {text: review}\n'
        (tmp_path / f"{name}.yaml").write_text(description)
    config = RunConfig(
        model=str(model),
        sources=[str(tmp_path / f"{name}.yaml") for name in ("red", "green")],
        targets=[str(tmp_path / "goal.yaml")],
        methods=["PT", "ATTEMPT", "DePT", "MPT"],
        seeds=[42],
        transfer_from="all",
        prompt_length=3,
        train_rows=16,
        source_updates=2,
        target_updates=3,
        precision="float32",
        output=tmp_path / "run",
        cache=tmp_path / "cache",
    )
    folder = compare(config, ProgressReporter())
    rows = [json.loads(line) for line in (tmp_path / "goal-test.jsonl").read_text().splitlines()]
    for row in json.loads((folder / "results.json").read_text())["rows"]:
        file = folder / row["prompt"]
        if row["method"] in ("ATTEMPT", "DePT"):
            file = file.with_name(f"{file.stem}-module.safetensors")
        card = read_card(file)
        assert (card.template, card.columns, card.choices) == ("{text} Answer:", {"text": "review"}, ("no", "yes"))
        assert (card.scoring, card.architecture, card.score) == ("first-token", "causal", row["score"])
        assert card.scores == {"majority": row["majority"], "zero_shot": row["zero_shot"]}
        result = run("predict", file, "--file", tmp_path / "goal-test.jsonl", "--json")
        assert result.exit_code == 0, result.output
        labels = [json.loads(line)["label"] for line in result.stdout.splitlines()]
        right = sum(label == wanted["stars"] for label, wanted in zip(labels, rows, strict=True))
        assert 100 * right / len(rows) == pytest.approx(row["score"])
        evaluated = run("evaluate", file, tmp_path / "goal.yaml", "--json")
        assert evaluated.exit_code == 0, evaluated.output
        assert json.loads(evaluated.stdout)["score"] == pytest.approx(row["score"])
        if row["method"] == "MPT":
            assert read_factors(file) is not None
        if row["method"] in ("ATTEMPT", "DePT"):
            result = run("similar", file, "--library", tmp_path)
            assert result.exit_code == 2 and f"depends on the row ({row['method']}) has no matrix" in result.stderr


def test_a_prompt_file_is_read_once(
    loaded: Backbone, prompt: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, read = stored(tmp_path / "p.safetensors", prompt), []
    monkeypatch.setattr(
        "prompttransfer.serving.predict.read_trained", lambda path: read.append(path) or read_trained(path)
    )
    assert run("predict", file, "w1 w2", "--json").exit_code == 0
    assert read == [file]


def lines_of(result: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_standard_input_is_read_as_a_file_is(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt)
    wanted = run("predict", file, "w1 w2", "w3", "--json").stdout
    for data in (b"\xef\xbb\xbfw1 w2\r\nw3", "w1 w2\nw3\n".encode("utf-16")):
        (tmp_path / "t.txt").write_bytes(data)
        assert run("predict", file, "--json", stdin=data).stdout == wanted
        assert run("predict", file, "--file", tmp_path / "t.txt", "--json").stdout == wanted
    bad = run("predict", file, stdin=b"w1\nw\xe9\n")
    assert bad.exit_code == 2
    assert bad.stderr == "error: standard input, line 2: not UTF-8: byte 0xe9 at character 2\n"
    assert lines_of(run("predict", file, "--encoding", "latin-1", "--json", stdin=b"w\xe9\n"))[0]["text"] == "wé"
    half = json.dumps({"one": "\ud83d", "two": "w"})
    two = stored(tmp_path / "q.safetensors", prompt, template="{one} {two}")
    assert "text 1, one: not UTF-8: half of a surrogate pair" in run("predict", two, half).stderr
    with pytest.raises(ValueError, match="text: not UTF-8: byte 0xe9"):
        Predictor.open(file)(["w\udce9"])


def test_a_blank_line_keeps_its_place(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt)
    result = run("predict", file, "--json", stdin="\nw1\n \nw3\n\n")
    assert result.exit_code == 0 and result.stderr == ""
    lines = lines_of(result)
    assert [(line["text"], line["label"] is None) for line in lines] == [
        ("", True),
        ("w1", False),
        (" ", True),
        ("w3", False),
        ("", True),
    ]
    assert [lines[1], lines[3]] == lines_of(run("predict", file, "w1", "w3", "--json"))
    assert len(run("predict", file, "-q", stdin="w1\n\nw3\n").stdout.split("%)")[-1].splitlines()) >= 4
    assert run("predict", file, stdin="\n \n").stderr == "error: got no text\n"


def test_a_row_without_an_answer_ends_nothing(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    """Also if whole parts of 512 rows have none."""
    file, table = stored(tmp_path / "p.safetensors", prompt, template="{one} {two}"), tmp_path / "t.jsonl"
    rows: list[str] = ['{"one": "w1", "two": ""}'] * 600 + ['{"one": "w1", "two": "w2"}', "broken"]
    table.write_text("\n".join(rows) + "\n")
    result = run("predict", file, "--file", table, "--json")
    lines = lines_of(result)
    assert result.exit_code == 1 and len(lines) == 602
    assert lines[0] == {
        "one": "w1",
        "two": None,
        "label": None,
        "problem": f"{table}, row 1, column 'two': got nothing, want a value",
    }
    assert lines[600] == lines_of(run("predict", file, '{"one": "w1", "two": "w2"}', "--json"))[0]
    assert lines[601]["label"] is None and f"{table}, row 602: not JSON" in lines[601]["problem"]
    messages = result.stderr.splitlines()
    assert len(messages) == 11 and messages[-1] == "601 of 602 rows are not answered"
    result = run("predict", file, "--json", stdin='{"one": "w1"}\n{"one": "w1", "two": "w2"}\n')
    assert result.exit_code == 1 and lines_of(result)[1] == lines[600]
    table.write_text(rows[0])
    nothing = run("predict", file, "--file", table)
    assert nothing.exit_code == 2 and "row 1, column 'two': got nothing" in nothing.stderr


READING = {"encoding": "cp1252", "delimiter": "^", "heading": ("label", "text")}


def test_a_table_is_read_as_the_training_table_was(loaded: Backbone, prompt: Tensor, tmp_path: Path) -> None:
    file, plain = (
        stored(tmp_path / f"{n}.safetensors", prompt, **c) for n, c in (("p", {"reading": READING}), ("q", {}))
    )
    assert read_card(file).reading == Reading(**READING) and read_card(plain).reading == Reading()
    table = tmp_path / "t.csv"
    table.write_bytes("no^w1 é\nyes^w2\n".encode("cp1252"))
    wanted = run("predict", plain, "w1 é", "w2", "--json").stdout

    def same(prompt_file: Path, *options: str, read: Path = table) -> bool:
        result = run("predict", prompt_file, "--file", read, "--json", *options)
        assert result.exit_code == 0, result.output
        return bool(result.stdout == wanted)

    assert same(file)
    assert same(plain, "--encoding", "cp1252", "--delimiter", "^", "--heading", "label,text")
    (tmp_path / "d.yaml").write_text('test: t.csv\nencoding: cp1252\ndelimiter: "^"\nheading: [label, text]\n')
    assert same(plain, read=tmp_path / "d.yaml") and same(file, read=tmp_path / "d.yaml")
    table.write_text("no^w1 é\nyes^w2\n", encoding="utf-8")  # the same letters, in other bytes
    assert same(file)
    table.write_bytes("label^text\nno^w1 é\nyes^w2\n".encode("cp1252"))  # this one names its columns
    assert same(file)
    table.write_text("text,label\nw1 é,no\nw2,yes\n", encoding="utf-8")
    assert same(file, "--delimiter", ",", "--heading", "")
    table.write_bytes(b'text\tlabel\n"w1 \xc3\xa9\tno\n"w2\tyes\n')
    quoted = lines_of(run("predict", plain, "--file", table, "--delimiter", "\\t", "--no-quotes", "--json"))
    assert [line["text"] for line in quoted] == ['"w1 é', '"w2']
    for options, message in (
        (["w1", "--delimiter", ","], "--delimiter: got it without a table to read"),
        (["--file", table, "--encoding", "nonsense"], "encoding: want one that Python knows"),
        (["--file", table, "--delimiter", "ab"], "delimiter: want one character"),
    ):
        bad = run("predict", plain, *options)
        assert bad.exit_code == 2 and message in bad.stderr


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "w1 é"),
        ("utf-16-le", "w1 é"),
        ("utf-16-le", "w1"),  # with bytes of 0 between letters: valid UTF-8, but no text
        ("iso2022_jp", "w1 日本"),  # bytes of ASCII alone
        ("shift_jis", "w1 日本"),
    ],
)
def test_the_encoding_of_the_training_table_is_not_forced_on_utf8(
    loaded: Backbone, prompt: Tensor, tmp_path: Path, encoding: str, text: str
) -> None:
    file, table = stored(tmp_path / "p.safetensors", prompt, reading={"encoding": encoding}), tmp_path / "t.csv"
    for written in (encoding, "utf-8"):
        table.write_bytes(f"text\n{text}\nw2\n".encode(written))
        result = run("predict", file, "--file", table, "--json")
        assert [line["text"] for line in lines_of(result)] == [text, "w2"], result.output
        assert ("is read as UTF-8" in result.stderr) == (written == "utf-8")
    table.write_text("text\nw2\n")
    assert lines_of(run("predict", file, "--file", table, "--json"))[0]["text"] == "w2"


def test_a_model_that_is_gone_is_named_anew(prompt: Tensor, tmp_path: Path) -> None:
    file = stored(tmp_path / "p.safetensors", prompt, model=str(tmp_path / "gone"))
    (tmp_path / "t.csv").write_text("text,label\nw1,no\nw2,yes\n")
    for words in (["predict", file, "w1"], ["evaluate", file, tmp_path / "t.csv"]):
        result = run(*words)
        assert result.exit_code == 2 and "gone': no such folder" in result.stderr
        assert result.stderr.splitlines()[-1] == (
            f"{file} was trained with that model; --model NAME names it where it is now"
        )
        named = run(*words, "--model", tmp_path / "none")
        assert named.exit_code == 2 and "was trained with" not in named.stderr


@pytest.mark.parametrize("score", [None, 81.25])
def test_a_notebook_shows_what_prompt_it_is(loaded: Backbone, prompt: Tensor, tmp_path: Path, score: float) -> None:
    about = {"model": "my/model", "method": "MPT", "task": "<sst2>", "metric": "accuracy", "score": score}
    shown = Predictor.open(stored(tmp_path / "p.safetensors", prompt, **about))._repr_html_()
    rows = [[cell.text for cell in row] for row in ElementTree.fromstring(shown)]
    facts = [["model", "my/model"], ["prompt", "3 tokens of 16 numbers"], ["method", "MPT"], ["task", "<sst2>"]]
    assert rows == facts + ([] if score is None else [["score", "accuracy 81.2"]])
