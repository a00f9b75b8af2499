"""The documentation: links, equations, and names that the code must have."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.docs

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ_ON_GITHUB = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *PAGES]


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", READ_ON_GITHUB, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_linked_exist(page: Path) -> None:
    """Pictures and downloads too, which the strict build passes over."""
    links = re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8")))
    for link in links:
        target = link.partition("#")[0]
        if target and "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{link} leads nowhere"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_equation_becomes_mathml(page: Path) -> None:
    convert = pytest.importorskip("latex2mathml.converter").convert
    text = without_code(page.read_text(encoding="utf-8"))
    for equation in re.findall(r"\$\$(.+?)\$\$", text, flags=re.DOTALL) + re.findall(r"(?<!\$)\$([^$\n]+)\$", text):
        assert "\\" not in convert(equation.strip()), f"not understood: {equation}"


def test_every_page_is_in_the_navigation() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    written = {str(page.relative_to(DOCS)) for page in PAGES}
    assert set(pages(config["nav"])) == written


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.glob("methods/*.md"))], ids=lambda page: str(page.relative_to(ROOT))
)
def test_differences_that_are_quoted_stand_on_the_pages_of_results(page: Path) -> None:
    """Pages of results are written by the studies, these pages by hand."""
    difference = re.compile(r"([+-]\d+\.\d)\s\[([+-]\d+\.\d),\s([+-]\d+\.\d)\]")
    measured = {
        numbers for written in DOCS.glob("results/*.md") for numbers in difference.findall(written.read_text("utf-8"))
    }
    quoted = set(difference.findall(page.read_text("utf-8")))
    assert quoted or page.name not in ("mpt.md", "bmtpt.md", "dtvg.md")
    assert quoted <= measured


def test_every_variable_that_is_read_is_documented() -> None:
    """Variables of the package and its build. Variables that only tests set are not for users."""
    sources = [ROOT / "setup.py", *(ROOT / "promptkernels").rglob("*.py"), *(ROOT / "python").rglob("*.py")]
    sources += [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".cpp", ".h", ".cu", ".cuh")]
    read = {
        name
        for path in sources
        for name in re.findall(
            r"""(?:environ(?:\.get\(|\[)|getenv\(|environ\.pop\()["']((?:PROMPTKERNELS|PROMPTTRANSFER)_\w+)""",
            path.read_text(encoding="utf-8"),
        )
    }
    documented = set(re.findall(r"`((?:PROMPTKERNELS|PROMPTTRANSFER)_\w+)`", (DOCS / "environment.md").read_text()))
    assert read and read <= documented
    everywhere = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert not [name for name in documented if name not in everywhere]


def test_versions_of_formats_are_those_in_the_code() -> None:
    from prompttransfer.runs import rows

    page = (DOCS / "stability.md").read_text("utf-8")
    assert re.findall(r"`format`: (\d+)", page) == [str(rows.FORMAT)]
    files = re.findall(r"`(tests/[\w/.]+)`", page)
    assert files and all((ROOT / file).is_file() for file in files)


def test_commands_of_the_pages_are_targets_of_make() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in READ_ON_GITHUB:
        commands = re.findall(r"^make ([\w-]+)|`make ([\w-]+)`", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name in map("".join, commands):
            assert name in targets, f"{page.relative_to(ROOT)} tells of make {name}"


def test_the_files_of_an_operation_are_those_that_are_listed() -> None:
    """Walked through with the one whose name is the same in C++: no other file of the package knows it."""
    lines = re.findall(r"^- (`.+?):", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), flags=re.MULTILINE)
    listed = [path.replace("FAMILY", "group") for line in lines for path in re.findall(r"`([\w./]+)`", line)]
    assert 0 < len(listed) <= 12

    def knows(path: str) -> bool:
        return "select_group" in (ROOT / path).read_text("utf-8")

    sources = [*ROOT.glob("promptkernels/**/*.py"), *(path for path in ROOT.glob("csrc/**/*") if path.is_file())]
    paths = {str(path.relative_to(ROOT)) for path in sources}
    known = {path for path in paths if knows(path)} - {"promptkernels/bench/peers/group.py"}  # which calls it
    assert all(map(knows, listed)) and known <= set(listed)
