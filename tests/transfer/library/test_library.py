"""The prompt library: cards, an index that follows the files, and similarity in blocks."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from synthetic_run import source_facts, target_facts
from torch import Tensor
from typer.testing import CliRunner

from prompttransfer import cli
from prompttransfer.interchange import Card, read_card, read_prompt, write_prompt
from prompttransfer.library import Library, folder, index, reading
from prompttransfer.prompts import init_hash

runner = CliRunner()


def run(*arguments: object) -> Any:
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


def stored(folder: Path, name: str, prompt: Tensor, **card: Any) -> Path:
    path = folder / f"{name}.safetensors"
    write_prompt(path, prompt, Card(**card).metadata())
    return path


def cosine(left: Tensor, right: Tensor) -> float:
    a, b = left.double().numpy().ravel(), right.double().numpy().ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def run_folder(folder: Path, start: Tensor, prompts: dict[str, Tensor]) -> Path:
    """A run folder with a source and targets, as `compare` leaves them."""
    sources, rows = [], []
    for name, prompt in prompts.items():
        kind = "PT" if sources else "sources"
        path = stored(folder / "prompts" / kind, f"{name}-seed1", prompt, init_hash=init_hash(start), task=name)
        facts = {"prompt": str(path.relative_to(folder)), "majority": 50.0, "zero_shot": 61.5}
        if sources:
            rows.append(target_facts("PT", name, 1, 70.0, **facts))
        else:
            sources.append(source_facts(name, **facts))
    write_prompt(folder / "prompts" / "P_init-seed1.safetensors", start, {})
    (folder / "results.json").write_text(json.dumps({"sources": sources, "rows": rows}))
    return folder


def test_a_run_is_added_with_its_scores_and_its_start(tmp_path: Path) -> None:
    start = torch.randn(3, 4)
    prompts = {name: start + torch.randn(3, 4) for name in ("red", "green")}
    folder, library = run_folder(tmp_path / "demo", start, prompts), tmp_path / "library"
    result = run("library", "add", folder, "--library", library, "--licence", "CC-BY-4.0")
    assert result.exit_code == 0 and "2 prompts added, 2 in" in result.stdout, result.output
    names = ["demo-PT-green-seed1", "demo-sources-red-seed1"]
    opened = Library.open(library)
    assert list(opened.entries) == names and opened.problems == []
    for name in names:
        task = name.split("-")[2]
        entry = opened.entries[name]
        card = json.loads((library / f"{name}.json").read_text())
        assert Card(**card) == entry.card == read_card(library / f"{name}.safetensors")
        assert card["task"] == task and card["scores"] == {"majority": 50.0, "zero_shot": 61.5}
        assert card["licence"] == "CC-BY-4.0" and len(card["date"]) == 10 and entry.shape == (3, 4)
        assert torch.equal(read_prompt(entry.path)[0], prompts[task])
    assert torch.equal(read_prompt(library / "starts" / f"{init_hash(start)}.safetensors")[0], start)
    assert run("library", "add", folder, "--library", library).exit_code == 0  # the same once more
    listed = run("library", "list", "--library", library)
    assert all(name in listed.stdout for name in names), listed.stdout
    assert list(json.loads(run("library", "list", "--library", library, "--json").stdout)) == names


def test_another_prompt_of_a_name_is_not_lost(tmp_path: Path) -> None:
    library, one = tmp_path / "library", stored(tmp_path, "p", torch.ones(2, 3))
    assert run("library", "add", one, "--library", library).exit_code == 0
    stored(tmp_path, "p", torch.zeros(2, 3))
    result = run("library", "add", one, "--library", library)
    assert result.exit_code == 2 and "'p'" in result.stderr and "--replace" in result.stderr
    assert torch.equal(read_prompt(library / "p.safetensors")[0], torch.ones(2, 3))
    output = json.loads(run("library", "add", one, "--library", library, "--prefix", "new", "--json").stdout)
    assert output["added"] == [f"new-{one.stem}"] and output["library"] == str(library)
    assert run("library", "add", one, "--library", library, "--replace").exit_code == 0
    assert torch.equal(read_prompt(library / "p.safetensors")[0], torch.zeros(2, 3))
    assert list(Library.open(library).entries) == ["new-p", "p"]
    result = run("library", "add", tmp_path, "--library", library)
    assert result.exit_code == 2 and "neither a prompt file nor a run folder" in result.stderr


def test_index_follows_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    described = index.described

    def counted(path: Path, card: Path | None) -> Any:
        read.append(path.stem)
        return described(path, card)

    monkeypatch.setattr(index, "described", counted)
    for name in "abc":
        stored(tmp_path, name, torch.ones(2, 3), task=name)
    assert list(Library.open(tmp_path).entries) == ["a", "b", "c"] and read == ["a", "b", "c"]
    assert list(Library.open(tmp_path).entries) == ["a", "b", "c"] and len(read) == 3  # from the index
    (tmp_path / "a.safetensors").unlink()
    (tmp_path / "b.json").write_text('{"task": "other"}')
    stored(tmp_path, "c", torch.ones(5, 3))
    entries = dict(Library.open(tmp_path).entries)
    assert read[3:] == ["b", "c"] and list(entries) == ["b", "c"]
    assert entries["b"].card.task == "other" and entries["c"].shape == (5, 3)
    written = (tmp_path / "index.sqlite").read_bytes()
    for content in (b"", b"neither", written[:3000], written[:4096] + bytes(len(written) - 4096)):
        (tmp_path / "index.sqlite").write_bytes(content)
        assert Library.open(tmp_path).entries == entries


def test_a_card_of_the_same_length_is_read_again(tmp_path: Path) -> None:
    stored(tmp_path, "a", torch.ones(2, 3))
    card = tmp_path / "a.json"
    for number, task in enumerate(("one", "two", "six")):
        card.write_text(json.dumps({"task": task}))
        os.utime(card, ns=(number, number))
        assert Library.open(tmp_path).entries["a"].card.task == task


def test_prompts_without_a_start_share_none(tmp_path: Path) -> None:
    """Not even with each other: they are compared as prompts, also where a start is given."""
    start, prompts = torch.randn(2, 3), [torch.randn(2, 3) for _ in range(3)]
    for name, prompt in zip("ab", prompts, strict=False):
        stored(tmp_path, name, prompt)
    library = Library.open(tmp_path)
    for given_start in (None, start):
        result = library.similar(prompts[2], Card(), start=given_start)
        assert [match.of for match in result.matches] == ["prompts", "prompts"]
        got = {match.entry.name: match.similarity for match in result.matches}
        assert got == {name: pytest.approx(cosine(prompts[2], prompts[n]), abs=1e-5) for n, name in enumerate("ab")}


def test_an_index_with_another_table_does_no_harm(tmp_path: Path) -> None:
    stored(tmp_path, "a", torch.ones(2, 3))
    assert list(Library.open(tmp_path).entries) == ["a"]
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        database.executescript("DROP TABLE prompts; CREATE TABLE prompts(other)")
    assert list(Library.open(tmp_path).entries) == ["a"]


def test_library_that_cannot_be_written_to_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path, "a", torch.ones(2, 3), task="t")
    (tmp_path / "index.sqlite").mkdir()  # as good as forbidden, for everyone
    library = Library.open(tmp_path)
    assert library.entries["a"].card.task == "t" and len(library.similar(torch.ones(2, 3), Card()).matches) == 1
    (tmp_path / "index.sqlite").rmdir()
    Library.open(tmp_path)
    connected = index._connected

    def forbidden(path: Path | str, **more: Any) -> sqlite3.Connection:
        return connected(f"{path.as_uri()}?mode=ro", uri=True) if isinstance(path, Path) else connected(path, **more)

    monkeypatch.setattr(index, "_connected", forbidden)
    monkeypatch.setattr(index, "described", None)  # the index is not read again
    assert list(Library.open(tmp_path).entries) == ["a"]


def test_file_that_changes_while_the_library_is_open_is_told(tmp_path: Path) -> None:
    stored(tmp_path, "a", torch.ones(2, 3))
    library = Library.open(tmp_path)
    stored(tmp_path, "a", torch.ones(2, 3), task="longer head")
    with pytest.raises(ValueError, match=r"a\.safetensors: changed since the library was opened"):
        library.similar(torch.ones(2, 3), Card())
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(ValueError, match=r"a\.safetensors: not readable"):
        library.similar(torch.ones(2, 3), Card())
    assert Library(tmp_path).similar(torch.ones(2, 3), Card()).compared == 0
    with pytest.raises(ValueError, match=r"start: got shape \(2, 4\), want the prompt's shape \(2, 3\)"):
        Library.open(tmp_path).similar(torch.ones(2, 3), Card(), start=torch.ones(2, 4))


def test_types_of_stored_prompts_and_numbers_that_are_none(tmp_path: Path) -> None:
    query = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    other = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    for name, dtype in (
        ("f32", torch.float32),
        ("f64", torch.float64),
        ("f16", torch.float16),
        ("b16", torch.bfloat16),
    ):
        save_file({"extra": torch.ones(7), "prompt": other.to(dtype)}, tmp_path / f"{name}.safetensors")
    save_file({"prompt": torch.full((3, 5), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"prompt": torch.ones(3, 5, dtype=torch.int64)}, tmp_path / "int.safetensors")
    library = Library.open(tmp_path)
    result = library.similar(query, Card())
    assert result.compared == 4
    for match in result.matches:
        wanted = cosine(query, read_prompt(match.entry.path)[0])
        assert match.similarity == pytest.approx(wanted, abs=1e-6)
    assert ["int.safetensors" in library.problems[0], "nan.safetensors" in library.problems[1]] == [True, True]


def test_equal_ones_come_by_name_wherever_the_list_ends(tmp_path: Path) -> None:
    for name in "dbeca":  # indexed one by one, so not by name
        stored(tmp_path, name, torch.ones(2, 3) * (2 if name == "b" else 1))
        Library.open(tmp_path)
    stored(tmp_path, "best", torch.tensor([[1.0, 1, 1], [1, 1, 2]]))
    library = Library.open(tmp_path)
    prompt = read_prompt(tmp_path / "best.safetensors")[0]
    names = ["best", "a", "b", "c", "d", "e"]
    for top in (1, 2, 4, 6, 9, None):
        result = library.similar(prompt, Card(), top=top)
        assert [match.entry.name for match in result.matches] == names[:top] and result.compared == 6


def test_files_that_are_no_prompts_are_left_out_and_named(tmp_path: Path) -> None:
    good = stored(tmp_path, "good", torch.ones(2, 3))
    cut = stored(tmp_path, "cut", torch.ones(2, 3))
    cut.write_bytes(cut.read_bytes()[:-5])
    save_file({"weight": torch.ones(3)}, tmp_path / "other.safetensors")
    stored(tmp_path, "card", torch.ones(2, 3))
    (tmp_path / "card.json").write_text('{"licnce": "MIT"}')
    library = Library.open(tmp_path)
    assert list(library.entries) == ["good"] and len(library.problems) == 3
    result = run("similar", good, "--library", tmp_path)
    assert result.exit_code == 0
    for part in ("cut.safetensors: not a readable", "other.safetensors: want a tensor 'prompt'", "mean 'licence'"):
        assert part in result.stderr


def test_task_vectors_come_first_where_the_start_is_shared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start, library = 10 * torch.randn(4, 6), tmp_path / "library"
    known = {"init_hash": init_hash(start), "model_fingerprint": "m"}
    query = start + torch.randn(4, 6)
    near, far = query + 0.1 * torch.randn(4, 6), start - (query - start)
    paths = {"near": stored(library, "near", near, **known), "far": stored(library, "far", far, **known)}
    alien = stored(library, "alien", torch.randn(4, 6), model_fingerprint="m", init_hash="0" * 16)
    stored(library, "long", torch.randn(5, 6), model_fingerprint="m")
    stored(library, "model", query, model_fingerprint="n")
    one = stored(tmp_path, "query", query, **known)

    def matches_of(*options: object) -> list[tuple[str, str, float]]:
        result = run("similar", one, "--library", library, "--json", *options)
        assert result.exit_code == 0, result.output
        return [(match["name"], match["of"], match["similarity"]) for match in json.loads(result.stdout)]

    as_prompts = {name: cosine(query, read_prompt(path)[0]) for name, path in (*paths.items(), ("alien", alien))}
    without = matches_of()  # P_init is not there
    assert [name for name, _, _ in without] == sorted(as_prompts, key=as_prompts.__getitem__, reverse=True)
    for name, of, value in without:
        assert of == "prompts" and value == pytest.approx(as_prompts[name], abs=1e-5)
    shown = run("similar", one, "--library", library).stdout
    assert (
        "P_init is not in the library" in shown and "2 left out: the prompt itself, or another model or size" in shown
    )
    expected = [
        ("near", "task vectors", pytest.approx(cosine(query - start, near - start), abs=1e-5)),
        ("far", "task vectors", pytest.approx(-1, abs=1e-5)),
        ("alien", "prompts", pytest.approx(as_prompts["alien"], abs=1e-5)),
    ]
    start_file = stored(tmp_path, "P_init", start)
    assert matches_of("--start", start_file) == expected
    Library(library).add_start(start_file)
    assert matches_of() == expected and matches_of("--top", 1) == expected[:1]
    means = matches_of("--metric", "token_mean_cosine")
    lengths = {name: read_prompt(library / f"{name}.safetensors")[0] for name in ("near", "far", "alien", "long")}
    for name, of, value in means:
        less = start if of == "task vectors" else torch.zeros_like(start)
        other = lengths[name] - (less if of == "task vectors" else 0)
        assert value == pytest.approx(cosine((query - less).mean(0), other.mean(0)), abs=1e-5)
    assert len(means) == 4
    result = run("similar", one, "--library", library, "--start", alien)
    assert result.exit_code == 2 and "not the P_init from which" in result.stderr
    result = run("similar", one, "--library", library, "--metric", "cosin")
    assert result.exit_code == 2 and "metric: got 'cosin', want cosine or token_mean_cosine" in result.stderr
    result = run("similar", one, "--library", tmp_path / "nowhere")
    assert result.exit_code == 2 and "no such library; create one with prompttransfer library add" in result.stderr


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="asks Linux for the memory in use")
def test_thousands_of_prompts_are_never_all_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, shape = 3000, (16, 256)  # 49 MB
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 20)
    prompts = torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    for number, prompt in enumerate(prompts):
        save_file({"prompt": prompt}, tmp_path / f"p{number}.safetensors")
    library = Library.open(tmp_path)
    library.similar(prompts[7][:, :64], Card())  # what is loaded on first use
    used = [resident()]
    similarity = folder._similarity

    def watched(*arguments: Any) -> Any:
        used.append(resident())
        return similarity(*arguments)

    monkeypatch.setattr(folder, "_similarity", watched)
    matches = library.similar(prompts[7], Card(), but=tmp_path / "p7.safetensors").matches
    assert len(used) > 40 and max(used) - used[0] < 20 << 20
    flat = prompts.flatten(1).double().numpy()
    wanted = flat @ flat[7] / np.linalg.norm(flat, axis=1) / np.linalg.norm(flat[7])
    order = [number for number in np.argsort(-wanted) if number != 7]
    assert [match.entry.name for match in matches[:20]] == [f"p{number}" for number in order[:20]]
    np.testing.assert_allclose([match.similarity for match in matches], wanted[order], atol=1e-5)


def resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
