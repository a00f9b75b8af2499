"""Put the package under test and its requirements into a separate folder, which is then tested.

python -m bench.gpu.prepare FOLDER [--architectures 90-real]     for this machine, with what was collected for it
python -m bench.gpu.prepare --collect [--python python3.12]      for another machine: make gpupack

Collected are the CUDA module and the wheels that a machine without a network lacks, in build/gpu (or the folder that
the environment variable GPU_PACK names). A module that was not built from these very sources, or for another Python,
is built again.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Requirements of prompttransfer that machine learning images often lack, with their own requirements.
WHEELS = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "datasets", "dill",
    "multiprocess", "xxhash",
)  # fmt: skip
COMMIT = "commit.txt"  # a copy of the working tree has no history
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_24", "manylinux_2_17", "manylinux2014")


def pack() -> Path:
    return Path(os.environ.get("GPU_PACK") or ROOT / "build/gpu")


def sources() -> str:
    """Hash of all sources of the compiled module."""
    digest = hashlib.sha256()
    for path in [ROOT / "CMakeLists.txt", *sorted(p for p in (ROOT / "csrc").rglob("*") if p.is_file())]:
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


def suffix(python: str) -> str:
    """Suffix of compiled modules, such as ``.cpython-312-x86_64-linux-gnu.so``."""
    asked = "import sysconfig; print(sysconfig.get_config_var('EXT_SUFFIX'))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def build(python: str, architectures: str, target: Path) -> None:
    """Compile the CUDA module for an interpreter into ``target``, with a note of its sources and architectures."""
    import pybind11

    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    folder = ROOT / "build" / f"gpu-cmake{suffix(python)}"
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), "-DPK_CPU=OFF", "-DPK_CUDA=ON"]
    configure += [f"-DPython_EXECUTABLE={python}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    configure += [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DPK_CUDA_ARCHS={architectures}"]
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    for command in (configure, ["cmake", "--build", str(folder), "--target", "_C_cuda"]):
        subprocess.run(command, check=True, env={**os.environ, "PATH": path})
    target.mkdir(parents=True, exist_ok=True)
    name = f"_C_cuda{suffix(python)}"
    shutil.copy2(folder / name, target / name)
    (target / f"{name}.txt").write_text(f"{sources()} {architectures}\n")


def carried(architectures: str) -> Path | None:
    """The collected module, if it was built from these sources for this Python and these architectures."""
    module = pack() / f"_C_cuda{suffix(sys.executable)}"
    note = Path(f"{module}.txt")
    if not module.exists() or not note.exists():
        print(f"no compiled module is carried in {pack()} for this Python")
        return None
    if note.read_text().split() != [sources(), architectures]:
        print(f"{module.name} was built from other sources, or not for {architectures}")
        return None
    return module


def unpack(site: Path) -> None:
    """Unpack the packed wheels for this Python into ``site``."""
    version = f"{sys.version_info.major}{sys.version_info.minor}"
    for wheel in sorted((pack() / "wheels").glob("*.whl")):
        if set(wheel.name.split("-")[-3].split(".")) & {"py3", f"py{version}", f"cp{version}"}:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
            subprocess.run([*install, "--target", str(site), str(wheel)], check=True)
        else:
            print(f"{wheel.name} is for another Python")


def prepare(site: Path, architectures: str) -> None:
    """Put the package, its CUDA module and the packed wheels into ``site``. Without architectures: only the package."""
    ignored = shutil.ignore_patterns("__pycache__", "_C_cuda*")
    shutil.copytree(ROOT / "promptkernels", site / "promptkernels", ignore=ignored, dirs_exist_ok=True)
    if not architectures:
        return
    unpack(site)
    module = carried(architectures)
    if module is None:
        build(sys.executable, architectures, site / "promptkernels")
    else:
        shutil.copy2(module, site / "promptkernels")
    print("the CUDA module " + ("was built here" if module is None else "was carried"))


def collect(python: str, architectures: str) -> None:
    """Build the module for another interpreter, and download the wheels for it in the versions installed here."""
    from promptkernels.bench.machine import commit  # needs torch

    build(python, architectures, pack())
    version = suffix(python).split("-")[1]  # 312
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    download += ["--disable-pip-version-check", "--implementation", "cp", "--python-version", version]
    for platform in _PLATFORMS:
        download += ["--platform", f"{platform}_x86_64"]
    shutil.rmtree(pack() / "wheels", ignore_errors=True)
    wanted = [f"{name}=={installed(name)}" for name in WHEELS]
    subprocess.run([*download, "--dest", str(pack() / "wheels"), *wanted], check=True)
    (pack() / COMMIT).write_text(commit())
    size = sum(path.stat().st_size for path in pack().rglob("*") if path.is_file())
    print(f"{pack()}: {size / 2**20:.1f} MiB, for {version} and {architectures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", nargs="?", type=Path)
    parser.add_argument("--architectures", default="90-real", help="as CMake has them (default: 90-real)")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--python", default="python3.12", help="the other machine's interpreter, for --collect")
    options = parser.parse_args()
    if options.collect:
        collect(options.python, options.architectures)
    elif options.site is None:
        parser.error("name a folder, or --collect")
    else:
        prepare(options.site, options.architectures)


if __name__ == "__main__":
    main()
