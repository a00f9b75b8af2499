"""Target: untrusted run folders, and their report."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from prompttransfer.report import read_results, write_report
from tools.fuzz.target import PART, Finding, Folder, Target, refuses


def _results_seeds() -> list[bytes]:
    row = {
        "method": "DTVG", "target": "n<y>t", "seed": 1, "metric": "accuracy", "scoring": "first-token", "score": 70.0,
        "other_scores": {"macro-f1": 51.0}, "majority": 51.5, "zero_shot": 62.25, "collapsed": True, "test_rows": 1200,
        "train_rows": 32, "leaked_rows": 3, "skipped_rows": 0, "trainable_parameters": 9216, "target_updates": 30,
        "target_examples": 240, "source_updates": 60, "seconds": 12.3, "prompt": "prompts/x.safetensors",
        "notes": "merged: <amazon>",
    }  # fmt: skip
    source = {
        "source": "amazon", "seed": 1, "metric": "accuracy", "scoring": "first-token", "score": 88.0,
        "other_scores": {}, "majority": 59.4, "zero_shot": 70.0, "collapsed": False, "test_rows": 200,
        "train_rows": 2000, "leaked_rows": 3, "skipped_rows": 0, "updates": 60, "seconds": 9.0, "prompt": "p/x",
    }  # fmt: skip
    content = {"format": 1, "model": "<b>", "machine": {"device": "cpu"}, "versions": {"torch": "2"}, "settings": {},
               "sources": [source], "rows": [row, row | {"method": "PT", "seed": 2}], "finished": False}  # fmt: skip
    history = {
        "loss": [[1, 2.0], [2, 1.0]], "similarity": {"names": ["a", "b"], "matrix": [[1.0, -0.1], [-0.1, 1.0]]},
        "groups": [[1, ["a"]], [2, []]], "particles": {"mean_distance": [[1, 1.5]], "bandwidth": [[1, 0.1]]},
        "attention": {"a": 0.5, "b": 0.5},
    }  # fmt: skip
    return [PART.join([json.dumps(content).encode(), json.dumps(history).encode()])]


_RESULTS_WORDS = [
    b"<script>", b'\\"><script>alert(1)</script>', b"'><img src=x onerror=alert(1)>", b"javascript:alert(1)", b"]]>",
    b"&lt;", b"\\u202e", b"\\u0000", b"\\ud800", b"null", b"[]", b"{}", b"-1", b"1e308", b"1e999", b"NaN", b"true",
    b'"x"', b"9" * 30, b"../../",
]  # fmt: skip


class _Tags(HTMLParser):
    """Finds what a page must never contain, whatever names are in it: scripts, handlers, external links."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "object", "embed", "base", "form", "b"):
            raise Finding(f"the report has a tag {tag}")
        for name, value in attrs:
            if name.startswith("on") or (name == "href" and ":" in (value or "").replace("data:,", "")):
                raise Finding(f"the report has {name}={value!r}")


def check_report(data: bytes) -> bool:
    content, history = (*data.split(PART, 1), b"")[:2]
    with Folder() as folder:
        (folder / "results.json").write_bytes(content)
        (folder / "history").mkdir()
        (folder / "history" / "DTVG-n<y>t-seed1.json").write_bytes(history)
        if refuses(lambda: read_results(folder), folder.name):
            return False
        if refuses(lambda: write_report(folder), folder.name):
            return False
        page = (folder / "report.html").read_text(encoding="utf-8")
        _Tags().feed(page)
        return True


def targets() -> dict[str, Target]:
    return {
        "report": Target(check_report, _results_seeds(), _RESULTS_WORDS, 8192),
    }
