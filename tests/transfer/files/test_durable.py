"""Files and folders that are complete or absent, and whose damage is detected."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from prompttransfer.files.durable import (
    Damaged,
    check_seal,
    read_record,
    replacing,
    seal,
    write_record,
)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    for content in ("old", "new"):
        with replacing(path) as temporary:
            temporary.write_text(content)
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("full")
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("sync", [True, False])
def test_a_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: bool) -> None:
    """Else a power cut could leave the name with half of the content."""
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def replaced(*paths: Any) -> None:
        order.append("replace")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    with replacing(tmp_path / "a", sync=sync) as temporary:
        temporary.write_text("content")
    assert order == (["file", "replace", "folder"] if sync else ["replace"])


def sealed(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "a b.bin").write_bytes(bytes(range(256)) * 9000)
    (folder / "sub" / "c.json").write_text("{}")
    seal(folder)
    return folder


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    folder = sealed(tmp_path / "f")
    check_seal(folder)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert len((folder / "SHA256SUMS").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["a b.bin", "sub/c.json", "SHA256SUMS"])
@pytest.mark.parametrize("fault", ["flipped", "truncated", "emptied", "missing"])
def test_a_damaged_folder_is_recognised(tmp_path: Path, name: str, fault: str) -> None:
    file = sealed(tmp_path / "f") / name
    content = file.read_bytes()
    middle = len(content) // 2
    changed = {
        "flipped": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
        "truncated": content[:middle],
        "emptied": b"",
    }
    if fault == "missing":
        file.unlink()
    else:
        file.write_bytes(changed[fault])
    with pytest.raises(Damaged):
        check_seal(tmp_path / "f")


def test_a_folder_without_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Damaged, match="SHA256SUMS: missing"):
        check_seal(tmp_path)


def test_a_record_knows_its_content(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    content = {"score": 0.1 + 0.2, "name": "ü", "list": [1, None, True]}
    write_record(path, content)
    assert read_record(path) == content
    good = path.read_text()
    for bad in (good.replace("true", "false"), good[: len(good) // 2], "", "[]", '{"content": 1}'):
        path.write_text(bad)
        with pytest.raises(Damaged, match=r"r\.json: damaged, the content differs"):
            read_record(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_record(path)
