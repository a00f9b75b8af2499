"""Builds the native modules with CMake and ninja; torch is not needed for it.

Environment variables (all optional):

=========================  ==========================================================================================
PROMPTKERNELS_BUILD        ``auto`` (default): whatever can be built here, and never a failed install;
                           ``cpu``: the CPU module, a failure is an error; ``cuda``: CPU and CUDA module, likewise;
                           ``none``: pure Python (the plain torch reference runs everything), for any platform;
                           modules that an earlier install left in a checkout stay
PROMPTKERNELS_CUDA_ARCHS   architectures, separated by ``;`` as CMake has them (``80-real;90-real;120``); by default
                           those of 80, 90, 100 and 120 that nvcc knows, and PTX of the newest
PROMPTKERNELS_JOBS         parallel compile jobs (one per core)
CXX, CUDACXX               the compilers
=========================  ==========================================================================================
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")  # of the modules of this Python: .cpython-311-x86_64-linux-gnu.so
MODES = ("auto", "cpu", "cuda", "none")
LOST = {
    "cpu": "the plain torch reference runs everything, several times slower",
    "cuda": "on GPU tensors Triton kernels run, and without Triton the plain torch reference",
}


def build_mode() -> str:
    mode = os.environ.get("PROMPTKERNELS_BUILD") or "auto"
    if mode not in MODES:
        raise SystemExit(f"PROMPTKERNELS_BUILD must be one of {', '.join(MODES)}, got {mode!r}")
    return mode


def find_nvcc() -> str | None:
    candidates = [os.environ.get("CUDACXX"), "nvcc"]
    candidates += [os.path.join(os.environ[v], "bin", "nvcc") for v in ("CUDA_HOME", "CUDA_PATH") if v in os.environ]
    candidates.append("/usr/local/cuda/bin/nvcc")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def say(line: str) -> None:
    """One line that the user sees: pip hides what a build prints unless it fails, but not the terminal itself."""
    text = f"promptkernels: {line}"
    print(text, file=sys.stderr, flush=True)
    try:
        with open("/dev/tty", "w") as terminal:
            terminal.write(text + "\n")
    except OSError:
        pass


class CMakeBuild(build_ext):
    """One CMake project per native module, so that a failure of one leaves the other alone."""

    def run(self) -> None:
        mode = build_mode()
        wanted = {"cpu": ["cpu"], "cuda": ["cpu", "cuda"], "auto": ["cpu", "cuda"]}[mode]
        for stale in self.modules():
            stale.unlink()
        for kind in wanted:
            try:
                self.build_module(kind)
            except (subprocess.CalledProcessError, OSError, ImportError) as error:
                if mode != "auto":
                    raise SystemExit(
                        f"promptkernels: the {kind} module was asked for (PROMPTKERNELS_BUILD={mode}) "
                        f"but its build failed: {reason(error)}"
                    ) from error
                say(f"installing without the {kind} module ({reason(error)}): {LOST[kind]}")

    def folder(self) -> Path:
        return (ROOT if self.editable_mode else Path(self.build_lib).resolve()) / "promptkernels"

    def modules(self) -> list[Path]:
        """The native modules of this build or an earlier one. In a checkout other Pythons may have theirs beside."""
        return sorted(self.folder().glob(f"_C_*{SUFFIX}" if self.editable_mode else "_C_*.so"))

    def build_module(self, kind: str) -> None:
        options = [f"-DPK_CPU={'ON' if kind == 'cpu' else 'OFF'}", f"-DPK_CUDA={'ON' if kind == 'cuda' else 'OFF'}"]
        if kind == "cuda":
            nvcc = find_nvcc()
            if nvcc is None:
                raise FileNotFoundError("no nvcc found")
            options.append(f"-DCMAKE_CUDA_COMPILER={nvcc}")
            if archs := os.environ.get("PROMPTKERNELS_CUDA_ARCHS"):
                options.append(f"-DPK_CUDA_ARCHS={archs}")
        import pybind11

        build = Path(self.build_temp).resolve() / kind
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir(parents=True)
        run = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}"]
        run += [
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPK_VERSION={self.distribution.get_version()}",
            *options,
        ]
        run.append(f"-DCMAKE_INSTALL_PREFIX={self.folder()}")
        jobs = os.environ.get("PROMPTKERNELS_JOBS") or str(os.cpu_count() or 1)
        check(run)
        log = check(["cmake", "--build", str(build), "--parallel", jobs])
        if kind == "cuda":
            check([sys.executable, str(ROOT / "cmake" / "ptxas_report.py")], text=log)
        check(["cmake", "--install", str(build)])

    def get_outputs(self) -> list[str]:
        return [str(path) for path in self.modules()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        sources = [path for path in (ROOT / "csrc").rglob("*") if path.is_file()]
        return ["CMakeLists.txt", "cmake/ptxas_report.py", *(str(path.relative_to(ROOT)) for path in sources)]


def check(command: list[str], text: str = "") -> str:
    """Run it on ``text``, show what it prints and return that."""
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stderr.write(done.stdout)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, output=done.stdout)
    return done.stdout


def reason(error: Exception) -> str:
    """What failed, in a few words: CMake's or the compiler's first error line where there is one."""
    output = getattr(error, "output", None) or ""
    if "No CMAKE_CXX_COMPILER" in output or "is not able to compile" in output:
        return "no working C++ compiler found"
    if message := re.search(r"CMake Error at .* \(message\):\n((?:  .+\n)+)", output):
        return " ".join(message.group(1).split())
    line = re.search(r"^.*\berror\b:?.*$", output, flags=re.MULTILINE | re.IGNORECASE)
    return line.group(0).strip() if line else str(error)


modules = [] if build_mode() == "none" else [Extension("promptkernels._C_cpu", sources=[])]
setup(ext_modules=modules, cmdclass={"build_ext": CMakeBuild})
