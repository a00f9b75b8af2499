"""Files of others hold data, and nothing in them runs: no pickles, no remote code, no scripts, no formulas."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import tarfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("promptkernels", "python", "bench", "tools")


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """All that the code says, with its file."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


def name_of(node: ast.expr) -> str:
    """Dotted names, such as torch.load. Other expressions, such as calls, are left out."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}".lstrip(".")
    return node.id if isinstance(node, ast.Name) else ""


def keyword(call: ast.Call, name: str) -> object:
    """Constant value of a keyword; None if it is missing, ... if it is not a constant."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else ...
    return None


def calls(*names: str) -> Iterator[tuple[str, ast.Call]]:
    for path, node in nodes():
        called = name_of(node.func) if isinstance(node, ast.Call) else ""
        if any(called == name or called.endswith(f".{name}") for name in names):
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node


# The pipes between a run and the worker processes that it starts itself.
OWN_PIPES = {f"python/prompttransfer/runs/executors/{name}.py: pickle" for name in ("local", "payload")}


def test_nothing_unpickles_or_evaluates() -> None:
    imported = [
        f"{path.relative_to(ROOT)}: {name}"
        for path, node in nodes()
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        if name.split(".")[0] in {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    ]
    assert set(imported) == OWN_PIPES
    evaluated = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path, node in nodes()
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"eval", "exec", "compile", "__import__"}
    ]
    assert evaluated == []
    assert [place for place, _ in calls("os.system", "os.popen", "extractall", "unpack_archive")] == []
    loads = {place.rpartition(":")[0] for place, _ in calls("pickle.loads")}
    assert {f"{path}: pickle" for path in loads} <= OWN_PIPES
    assert [place for place, call in calls("subprocess.run", "subprocess.Popen") if keyword(call, "shell")] == []


def test_templates_are_files_of_the_package_and_escape() -> None:
    """A template may run any code, so only the package's own are compiled."""
    assert [place for place, _ in calls("from_string", "Template")] == []
    environments = list(calls("Environment"))
    assert [keyword(call, "autoescape") for _, call in environments] == [True]
    (loader,) = (argument.value for argument in environments[0][1].keywords if argument.arg == "loader")
    assert ast.unparse(loader) == "PackageLoader('prompttransfer.report')"


def test_tensors_are_loaded_without_code() -> None:
    loads = list(calls("torch.load"))
    assert loads and all(keyword(call, "weights_only") is True for _, call in loads)
    assert [place for place, call in calls("np.load", "numpy.load") if keyword(call, "allow_pickle")] == []


def test_prompts_of_a_hub_are_safetensors_and_json() -> None:
    """Nothing else is fetched, and nothing is uploaded from anywhere else; tests/transfer/interchange/test_hub.py."""
    hub = pytest.importorskip("prompttransfer.interchange.hub")
    for names in (("snapshot_download", "hf_hub_download"), ("upload_folder", "upload_file", "create_commit")):
        assert [place.rpartition(":")[0] for place, _ in calls(*names)] == ["python/prompttransfer/interchange/hub.py"]
    (fetch,) = (call for _, call in calls("snapshot_download"))
    assert keyword(fetch, "allow_patterns") is ...
    assert {Path(name).suffix for name in (hub.PROMPT, hub.CONFIG, hub.WEIGHTS, hub.CARDS)} == {".safetensors", ".json"}


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    import yaml

    from prompttransfer.files.yaml_file import _Loader, read_yaml

    assert issubclass(_Loader, yaml.SafeLoader)
    loads = list(calls("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"))
    assert [keyword(call, "Loader") for _, call in loads] == [...] and "yaml_file" in loads[0][0]
    file, trace = tmp_path / "a.yaml", tmp_path / "ran"
    for tag in (f"!!python/object/apply:os.mkdir ['{trace}']", "!!python/name:os.system", "!!python/module:os"):
        file.write_text(f"a: {tag}\n")
        with pytest.raises(ValueError, match=r"a\.yaml, line 1, column 4: could not determine a constructor"):
            read_yaml(file)
    assert not trace.exists()


def test_models_run_no_code_of_their_own(tmp_path: Path) -> None:
    """Nor any code allowed by a question on the terminal, which transformers asks by default."""
    loads = [(place, call) for place, call in calls("from_pretrained")]
    assert loads and [place for place, call in loads if keyword(call, "trust_remote_code") is not False] == []
    loading = pytest.importorskip("prompttransfer.models.loading")
    trace = tmp_path / "ran"
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    with pytest.raises(ValueError, match=r"model .*model"):
        loading.load_model(folder)
    assert not trace.exists()


def test_templates_reach_no_attributes_and_no_widths() -> None:
    templates = pytest.importorskip("prompttransfer.tasks.templates")
    for template in ("{text.__class__}", "{text[0]}", "{0}", "{text!r}", "{text:>999999999}", "{text:{text}}"):
        with pytest.raises(ValueError, match="template"):
            templates.fields_of(template)
    assert templates.render("{text}:", {"text": "{text.__class__}"}).text == "{text.__class__}:"


def tar_with(members: list[tarfile.TarInfo]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for member in members:
            member.size = 4 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"evil") if member.isreg() else None)
    return content.getvalue()


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("kind", ["tar", "wheel", "symbolic link", "hard link"])
def test_archives_stay_in_their_folder(tmp_path: Path, kind: str) -> None:
    """Names that lead elsewhere are never unpacked, and a link is not followed out of the archive."""
    fetching = pytest.importorskip("prompttransfer.files.assets.fetching")
    table = pytest.importorskip("prompttransfer.files.assets.table")
    outside = tmp_path / "outside.txt"
    outside.write_text("secret")
    names = ["../escape.txt", str(tmp_path / "absolute.txt"), "package/data.txt"]
    links = {"symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}
    archive = tmp_path / ("a.whl" if kind == "wheel" else "a.tar.gz")
    if kind == "wheel":
        with zipfile.ZipFile(archive, "w") as wheel:
            for name in names:
                wheel.writestr(name, b"evil")
    elif kind == "tar":
        archive.write_bytes(tar_with([tarfile.TarInfo(name) for name in names]))
    else:
        archive.write_bytes(tar_with([link("package/data.txt", str(outside), links[kind])]))
    asset = table.Asset("package", "1", archive.name, "0" * 64, 1, "", "", members={"data.txt": "package/data.txt"})
    target = tmp_path / "cache" / "members"
    target.parent.mkdir()
    if kind in links:
        with pytest.raises(fetching.AssetError, match=r"a\.tar\.gz"):
            fetching._extract(asset, archive, target)
    else:
        fetching._extract(asset, archive, target)
        assert [path.name for path in target.iterdir()] == ["data.txt"]
    written = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= {archive.name, "outside.txt", "data.txt"}


def test_assets_are_pinned_by_their_hash() -> None:
    table = pytest.importorskip("prompttransfer.files.assets.table")
    assert all(re.fullmatch(r"[0-9a-f]{64}", asset.sha256) for asset in table.ASSETS.values())


HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</svg></style></title></pre><script>",
    "javascript:alert(1)",
    "a\u202eb\u2066c\x00d\x1b]0;e",
    "&lt;b&gt; &#60;",
    "]]><!--",
]


class Page(HTMLParser):
    """Tags and attributes of a page, and all its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile_run(folder: Path, words: str) -> Path:
    """A run folder in which every text is that."""
    from synthetic_run import write_run

    mark = "WORDS"
    run = write_run(folder, targets=[mark, "plain"], methods=["PT", "DTVG", mark], sources=[mark, "r8"])
    content = json.loads((run / "results.json").read_text(encoding="utf-8"))
    for row in [*content["rows"], *content["sources"]]:
        row |= {"prompt": mark, "notes": mark, "scoring": mark}
    content |= {"model": mark, "commit": mark, "settings": {mark: mark}, "versions": {mark: mark}}
    content["machine"] = {"device": mark, mark: mark}
    (run / "results.json").write_text(json.dumps(content), encoding="utf-8")
    for file in run.rglob("*.json"):  # no file can have such a name
        file.write_text(file.read_text(encoding="utf-8").replace(json.dumps(mark), json.dumps(words)), encoding="utf-8")
    return run


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prompttransfer.report")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "transfer"))


@pytest.mark.parametrize("words", HOSTILE)
def test_report_escapes_everything(synthetic: None, tmp_path: Path, words: str) -> None:
    """The same tags and attributes as a page of harmless words, and the words as text."""
    from prompttransfer.report import write_comparison, write_report

    pages = []
    for number, text in enumerate(("harmless", words)):
        runs = [hostile_run(tmp_path / f"{number}-{other}", text) for other in "ab"]
        write_report(runs[0])
        write_comparison(runs, tmp_path / f"{number}.html")
        pages.append([(runs[0] / "report.html"), tmp_path / f"{number}.html"])
    for harmless, hostile in zip(*pages, strict=True):
        parsed = []
        for path in (harmless, hostile):
            page = Page()
            page.feed(path.read_text(encoding="utf-8"))
            parsed.append(page)
        plain, page = parsed
        assert page.tags == plain.tags
        assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
        links = {value for name, value in page.attributes if name in ("href", "src")}
        assert not [value for value in links - {"data:,"} if re.match(r"\w+:", value)]
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x1b]", path.read_text(encoding="utf-8"))
    if words.isascii():
        assert words in page.text


@pytest.mark.parametrize("words", HOSTILE)
def test_pictures_are_well_formed(synthetic: None, tmp_path: Path, words: str) -> None:
    from prompttransfer.report import pictures, read_results
    from prompttransfer.report.svg import sheet

    for picture in pictures(read_results(hostile_run(tmp_path / "run", words))):
        tree = ET.fromstring(sheet(picture.panels, picture.legend))
        assert {element.tag.rpartition("}")[2] for element in tree.iter()} <= {
            "svg", "style", "rect", "line", "text", "g", "polyline", "circle", "title"
        }  # fmt: skip


def test_spreadsheets_see_no_formulas(tmp_path: Path) -> None:
    durable = pytest.importorskip("prompttransfer.files.durable")
    texts = ["=1+2", "+1", "-cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "plain", "a=b", ""]
    durable.write_csv(tmp_path / "a.csv", [{"text": text, "number": -1.5} for text in texts])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [f"'{text}" for text in texts[:6]] + texts[6:]
    assert {row["number"] for row in rows} == {"-1.5"}
