"""Text in and out of the command line, in any locale and encoding."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from prompttransfer import cli
from prompttransfer.files.json_file import read_json
from prompttransfer.files.texts import check_text, read_lines
from prompttransfer.files.yaml_file import parse_yaml


def lines(data: bytes, encoding: str = "utf-8") -> list[str]:
    return list(read_lines(io.BytesIO(data), "here", encoding))


@pytest.mark.parametrize("data", [b"", b"a", b"a\n", "é\nü".encode(), b"a\n\n b \n", b"x" * 70_000 + b"\ny\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_lines_are_those_of_the_text_whatever_ends_them(data: bytes, mark: bytes) -> None:
    wanted = data.decode().split("\n")
    wanted = wanted[:-1] if wanted[-1] == "" else wanted
    for end in (b"\n", b"\r\n", b"\r"):
        assert lines(mark + data.replace(b"\n", end)) == wanted


def test_encodings_are_believed_when_they_are_marked_or_named() -> None:
    text = "çedilla\n\nüber\n"
    for data, encoding in (
        (text.encode("utf-16"), "utf-8"),
        (b"\xfe\xff" + text.encode("utf-16-be"), "utf-8"),
        (text.encode("utf-16-le"), "utf-16-le"),
        (text.encode("cp1252"), "cp1252"),
        (text.encode("utf-8-sig"), "UTF8"),
    ):
        assert lines(data, encoding) == ["çedilla", "", "über"]


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"good\ncaf\xe9 bad\n", "utf-8", "here, line 2: not UTF-8: byte 0xe9 at character 4"),
        (b"\xff", "utf-8", "here, line 1: not UTF-8: byte 0xff at character 1"),
        ("ab\n".encode("utf-16-le"), "utf-8", "here: this is UTF-16 text without a byte order mark"),
        ("ab\n".encode("utf-16-be"), "utf-8", "here: this is UTF-16 text without a byte order mark"),
        (b"\x1f\x8b\x08\x00", "utf-8", "here: this is a gzip file"),
        (b"\xff\xfea\0\n", "utf-8", "here, after line 0: not UTF-8 (truncated data)"),
        (b"a\n\x81", "cp1252", "here, after line 0: not CP1252 (character maps to <undefined>)"),
    ],
)
def test_what_is_not_in_the_encoding_is_named(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        lines(data, encoding)
    assert str(refused.value).startswith(message)


def test_a_pipe_that_gives_one_byte_at_a_time_is_read_whole() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        for byte in "\ufeffé\nb\n".encode():
            os.write(writing, bytes([byte]))
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as raw:
        assert list(read_lines(raw, "pipe")) == ["é", "b"]
    thread.join()


def test_lone_surrogates_are_refused_wherever_they_are_spelt(tmp_path: Path) -> None:
    assert check_text("é \U0001f600", "x") == "é \U0001f600"
    (tmp_path / "a.json").write_text('{"a": ["\\ud83d"]}')
    (tmp_path / "k.json").write_text('{"\\udfff": 1}')
    for refused, message in (
        (lambda: check_text("caf\udce9", "--template"), "--template: not UTF-8: byte 0xe9 at character 4"),
        (lambda: check_text("\ud83d", "x"), "x: not UTF-8: half of a surrogate pair, \\ud83d, at character 1"),
        (lambda: parse_yaml('a: "\\ud800"', "r.yaml"), "r.yaml: not YAML: a text: not UTF-8: half of a surrogate pair"),
        (lambda: read_json(tmp_path / "a.json"), "a.json: a text: not UTF-8: half of a surrogate pair, \\ud83d"),
        (lambda: read_json(tmp_path / "k.json"), "k.json: a text: not UTF-8: half of a surrogate pair, \\udfff"),
    ):
        with pytest.raises(ValueError) as error:
            refused()
        assert message in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "p.safetensors", "good", "\udcff"],
        ["import", "a", "p", "--template", "{text}\udcff"],
        ["library", "add", "p", "--prefix", "\udcff"],
        ["compare", "--targets", "\udcff"],
        ["train", "\udcff", "p"],
        ["validate", "demo", "--set", "init_text=\udcff"],
        ["assets", "\udcff"],
    ],
)
def test_arguments_of_every_command_are_text(words: list[str]) -> None:
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and "not UTF-8: byte 0xff at character" in result.stderr
    assert len(result.stderr.splitlines()) == 1 and result.stdout == ""
    if words[0] == "predict":
        assert result.stderr == "error: text 2: not UTF-8: byte 0xff at character 1\n"


SHOWN = "é “日本” \U0001f600"
CODE = f"""
from prompttransfer.files import texts
texts.prepare_streams()
texts.tell({SHOWN!a})
texts.show({SHOWN!a})
texts.show_json({SHOWN!a})
"""
LOCALES = [
    {},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},  # ASCII
    {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"},
]


def run(code: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    command = ["sh", "-c", f'"$0" -c "$1" {shell}', sys.executable, code]
    return subprocess.run(command, env=clean | variables, capture_output=True)


@pytest.mark.parametrize("variables", LOCALES)
def test_pipes_get_utf8_in_every_locale(variables: dict[str, str]) -> None:
    done = run(CODE, **variables)
    assert done.stdout.decode("utf-8").splitlines() == [SHOWN, json.dumps(SHOWN, ensure_ascii=False)]
    assert done.stderr.decode("utf-8").splitlines() == [SHOWN]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252:strict"])
def test_an_encoding_that_is_asked_for_gets_escapes(encoding: str) -> None:
    done = run(CODE, PYTHONIOENCODING=encoding)
    codec = encoding.split(":")[0]
    assert done.stdout.decode(codec).splitlines()[0] == SHOWN.encode(codec, "backslashreplace").decode(codec)
    assert json.loads(done.stdout.splitlines()[1]) == SHOWN  # JSON has its own escapes
    assert done.returncode == 0


def test_closed_streams_swallow_what_is_written() -> None:
    assert run(CODE, ">&-").stderr.decode().splitlines() == [SHOWN]
    closed = run(CODE, "2>&-")
    assert (closed.returncode, closed.stdout.decode().splitlines()[0]) == (0, SHOWN)


MAIN = "import sys; sys.argv[1:] = {words}; from prompttransfer.__main__ import main; main()"


@pytest.mark.parametrize(
    ("words", "shell", "code", "message"),
    [
        (["predict", "p", "w"], ">&-", 2, "error: standard output is closed, and this command has no other result"),
        (["assets", "--json"], ">&-", 0, ""),
        (["assets", "--json"], ">/dev/full", 1, "error: standard output: No space left on device"),
        (["--help"], ">/dev/full", 1, "error: [Errno 28] No space left on device"),
        (["--help"], "| true", 0, ""),
        (["assets", "--json"], "| true", 0, ""),
    ],
)
def test_output_that_cannot_be_written_is_told_in_a_line(
    tmp_path: Path, words: list[str], shell: str, code: int, message: str
) -> None:
    done = run(MAIN.format(words=words), shell, PROMPTTRANSFER_CACHE=str(tmp_path))
    error = done.stderr.decode()
    assert done.returncode == code and error.startswith(message) and len(error.splitlines()) == (1 if message else 0)


def test_closed_input_is_told() -> None:
    code = "import sys; sys.stdin = None; from prompttransfer.files import texts; next(iter(texts.input_lines()))"
    assert "standard input is closed; give texts as arguments or with --file" in run(code).stderr.decode()
