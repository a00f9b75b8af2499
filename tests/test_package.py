"""Installation: the source distribution builds on its own, and the wheel has all needed files and no others."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from installing import borrow_dependencies, environment, run

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = [pytest.mark.package, pytest.mark.xdist_group("package")]  # builds the package once

LEFT_OUT = (".git", ".venv", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis")


def left_out(folder: str, names: list[str]) -> set[str]:
    """Folders of a checkout that are not part of it. Deeper down, `runs` is a package."""
    return shutil.ignore_patterns(*LEFT_OUT)(folder, names) | ({"runs"} & set(names) if folder == str(ROOT) else set())


@pytest.mark.slow
def test_tests_of_a_group_share_a_process(request: pytest.FixtureRequest) -> None:
    """`make test-slow` relies on it; with pytest 9.2 and xdist 3.8 every process built everything."""
    if request.config.getoption("loadgroup", default=False):
        assert request.node.nodeid.endswith("@package")


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="the package build is not installed")
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=left_out)
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-x", "--outdir", folder, folder / "tree")
    (archive,) = folder.glob("*.tar.gz")
    return archive


def build_wheel(sdist: Path, folder: Path, mode: str) -> Path:
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    run(*pip, "--wheel-dir", folder, sdist, PROMPTKERNELS_BUILD=mode)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist alone, with the CPU module."""
    if shutil.which(os.environ.get("CXX") or "c++") is None:
        pytest.skip("no C++ compiler was found")
    return build_wheel(sdist, tmp_path_factory.mktemp("wheel"), "cpu")


@pytest.mark.slow
def test_sdist_holds_what_the_project_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["Makefile", "mkdocs.yml", "CITATION.cff", "CHANGELOG.md", "LICENSE", "CMakeLists.txt"]
    wanted += ["constraints.txt", "constraints-vllm.txt"]
    wanted += [
        "tests/test_package.py",
        "examples/custom_task/reviews.csv",
        "docs/index.md",
        *("bench/evidence/studies.py", "tools/fuzz/running.py"),
        *(".ci/run", ".ci/audit.py", ".clang-format"),
    ]
    sources = [path for folder in ("csrc", "cmake") for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert not {*wanted, *(str(path.relative_to(ROOT)) for path in sources)} - names
    assert not [name for name in names if name.endswith((".so", ".pyc", ".safetensors", ".bin"))]
    assert sdist.stat().st_size < 3e6


@pytest.mark.native
@pytest.mark.slow
def test_wheel_holds_both_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    ours = {
        str(path.relative_to(base))
        for base in (ROOT, ROOT / "python")
        for name in ("promptkernels", "prompttransfer")
        for path in (base / name).rglob("*")
        if path.is_file()
        and path.suffix != ".so"
        and not re.search(r"/(__pycache__|\.\w+)/", str(path.relative_to(base)))
    }
    modules = {name for name in names if re.fullmatch(r"promptkernels/_C_cpu\..*\.so", name)}
    metadata = {name for name in names if ".dist-info/" in name}
    assert {name for name in names if name.endswith("py.typed")} == {
        "promptkernels/py.typed",
        "prompttransfer/py.typed",
    }
    assert names - modules - metadata == ours
    assert len(modules) == 1
    assert any(name.endswith("licenses/LICENSE") for name in metadata)
    # A module for this interpreter and platform, with a matching tag.
    assert sysconfig.get_platform().replace("-", "_") in wheel.name and "-none-any" not in wheel.name


@pytest.mark.native
@pytest.mark.slow
def test_compiled_module_links_nothing_of_torch(wheel: Path, tmp_path: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf was not found")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        module = archive.extract(name, tmp_path)
    dynamic = run(readelf, "--dynamic", "--wide", module)
    needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", dynamic))
    system = r"lib(c|m|gcc_s|stdc\+\+|gomp|omp|pthread|dl)\.so\.\d+|ld-linux.*"
    assert needed and not [library for library in needed if not re.fullmatch(system, library)]
    assert not re.search(r"\((RPATH|RUNPATH)\)", dynamic)
    symbols = run(readelf, "--dyn-syms", "--wide", module)
    undefined = re.findall(r" UND (\S+)", symbols)
    assert any(symbol.startswith("Py") for symbol in undefined)
    assert not [symbol for symbol in undefined if re.search(r"c10|torch|_ZN2at|libtorch", symbol)]


@pytest.mark.native
@pytest.mark.slow
def test_installs_into_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    """The package runs from what was installed."""
    python = environment(tmp_path / "env", sys.executable, wheel)
    site = borrow_dependencies(python)
    facts = json.loads(
        run(
            python,
            "-I",  # without the folder this runs in
            "-c",
            "import json, promptkernels as pk, prompttransfer, torch\n"
            "x = torch.eye(3)[:, None]\n"
            "print(json.dumps([pk.__file__, prompttransfer.__file__, pk.backends()['cpu'].reason,"
            " pk.task_similarity(x).tolist()]))",
        )
    )
    assert all(Path(file).is_relative_to(site) for file in facts[:2])
    assert facts[2] == "" and facts[3] == torch.eye(3).tolist()
    help_text = run(tmp_path / "env" / "bin" / "prompttransfer", "validate", "--help")
    assert "recipe" in help_text.lower()


@pytest.mark.slow
def test_the_wheel_for_any_platform_computes_in_plain_torch(sdist: Path, tmp_path: Path) -> None:
    wheel = build_wheel(sdist, tmp_path / "wheel", "none")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if re.search(r"\.(so|pyd|dylib|dll)$|\.data/", name)]
    python = environment(tmp_path / "env", sys.executable, wheel)
    site = borrow_dependencies(python)
    code = (
        "import promptkernels as pk, torch\n"
        "status = pk.backends()\n"
        "x = torch.tensor([[[3.0, 4.0]], [[4.0, 3.0]]])\n"
        "print(pk.__file__, status['cpu'].available, pk.task_similarity(x)[0, 1].item())"
    )
    file, compiled, cosine = run(python, "-I", "-c", code).split()
    assert Path(file).is_relative_to(site) and compiled == "False"
    assert float(cosine) == pytest.approx(24 / 25)


def test_dev_is_all_extras_together() -> None:
    """So whoever installs it, as `make test` does, has seen every extra resolve."""
    from packaging.requirements import Requirement

    extras = PROJECT["optional-dependencies"]
    reached, waiting = set(), {"dev"}
    while waiting:
        reached.add(extra := waiting.pop())
        own = [requirement for requirement in map(Requirement, extras[extra]) if requirement.name == "promptkernels"]
        waiting |= {name for requirement in own for name in requirement.extras} - reached
    named = {"transfer", "generation", "peft", "triton", "bench", "cluster", "fuzz", "docs", "dev"}
    assert reached == set(extras) == named


def test_every_import_is_declared() -> None:
    """A library that comes along with another one today need not do so tomorrow."""
    from packaging.requirements import Requirement

    declared = {Requirement(line).name.lower().replace("-", "_") for line in PROJECT["dependencies"]}
    extras = PROJECT["optional-dependencies"]
    for name in ("transfer", "generation", "peft", "triton", "bench", "cluster"):
        declared |= {Requirement(line).name.lower().replace("-", "_") for line in extras[name]}
    other_names = {"yaml": "pyyaml", "sklearn": "scikit_learn", "pydantic_core": "pydantic"}
    # Requested by their own error messages: for quantized weights, for answers by vLLM, for logging.
    other_names |= dict.fromkeys(("bitsandbytes", "vllm", "wandb", "trackio"), "transformers")
    for file in [*(ROOT / "promptkernels").rglob("*.py"), *(ROOT / "python").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            modules = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for top in {(module or "").partition(".")[0] for module in modules}:
                if top not in {*sys.stdlib_module_names, "promptkernels", "prompttransfer"}:
                    assert other_names.get(top, top) in declared, f"{file.relative_to(ROOT)} imports {top}"


def test_one_version_everywhere() -> None:
    import promptkernels

    version = PROJECT["version"]
    assert promptkernels.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version} " in (ROOT / "CHANGELOG.md").read_text()
