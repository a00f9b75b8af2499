"""Every command that a page shows exists with its options; what no other test runs is run here, in small."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from documented import PAGES, ROOT, cli_commands, named, shown

pytestmark = pytest.mark.docs

COMMANDS = cli_commands()
EVERY = sorted({command for page in PAGES for command in (*shown(page), *named(page))})


def of(start: str) -> list[str]:
    """Commands that start like this, also after a launcher or another python."""
    return [command[command.index(start) :] for command in EVERY if re.search(rf"(^|\s|/){re.escape(start)}", command)]


@pytest.mark.parametrize("command", of("prompttransfer "))
def test_options_of_prompttransfer_are_known(command: str) -> None:
    words = shlex.split(command)[1:]
    if words[0] == "--import":
        words = words[2:]
    if words[0].startswith("--") or words[0].isupper():  # of the command itself, or any of its commands
        assert words[0] in ("--install-completion", "COMMAND")
        return
    if words == ["library"]:  # the heading of its commands
        return
    size = 2 if words[0] == "library" else 1
    known = COMMANDS[" ".join(["prompttransfer", *words[:size]])]
    if words[size:]:  # else it is only named
        known.make_context(words[0], words[size:])


@pytest.mark.parametrize("command", of("python -m ") + of("python bench/"))
def test_modules_files_and_options_of_python_exist(command: str) -> None:
    _, *words = shlex.split(command)
    if words[:2] == ["-m", "pytest"]:
        files = [word for word in words[2:] if "/" in word or word == "bench"]
        assert all((ROOT / file).exists() for file in files)
        return
    if words[0] != "-m":
        sources, rest = [ROOT / words[0]], words[1:]
    elif words[1].startswith(("bench.", "tools.", "prompttransfer.")) or words[1] == "promptkernels":
        if "*" in words[1]:
            return
        spec = importlib.util.find_spec(words[1])
        assert spec, f"there is no module {words[1]}"
        folder = [Path(place) for place in spec.submodule_search_locations or ()]
        sources, rest = [path for place in folder for path in place.rglob("*.py")] or [Path(spec.origin)], words[2:]
    else:
        assert words[1] in ("prompttransfer", "nltk.downloader", "typer", "vllm.entrypoints.openai.api_server")
        return
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for option in re.findall(r"(?:^|\s)(--[a-z-]+)", " ".join(rest)):
        assert f'"{option}"' in text, f"{command}: {option} is not known"


def test_scripts_can_be_read_by_their_shell() -> None:
    scripts = {word for command in EVERY for word in command.split() if word.endswith(".sh")}
    scripts |= {str(path.relative_to(ROOT)) for path in (ROOT / "bench").glob("*.sh")}
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK), f"{script} cannot be run"
        subprocess.run(["bash", "-n", ROOT / script], check=True)


SMALL = {
    "library": "-m bench.library --prompts 20 --length 2 --hidden 8 --rounds 1 --json {out}",
    **{
        f"training of {model}": f"bench/training.py --small --model {model} --rounds 1 --rows 4 --updates 1 "
        "--json {out}"
        for model in ("llama", "t5")
    },
    "regressions": "-m pytest bench -q --benchmark-json {out} -k similarity -p no:cacheprovider",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_benchmarks_that_no_other_test_runs(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = SMALL[name].format(out=out).split()
    # pytest-benchmark measures nothing where it finds the marks of a parallel run.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, ROOT / "python")))
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert out.stat().st_size > 100
