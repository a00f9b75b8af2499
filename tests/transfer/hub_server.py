"""A hub of the tests' own: repositories in memory behind the part of its HTTP interface that huggingface_hub calls."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

TOKEN = "hf_of_user"
LICENCES = {"apache-2.0", "mit"}


@dataclass
class Repository:
    """Its commits in their order, each with all files. private: only `TOKEN` may read it."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit({".gitattributes": b""})

    def commit(self, files: dict[str, bytes]) -> str:
        """Returns the revision."""
        revision = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[revision] = files
        return revision

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]


class Hub(ThreadingHTTPServer):
    """repositories by name; asked: method and path of every request; broken: it answers everything with a 500."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running_hub() -> Iterator[Hub]:
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        try:
            yield hub
        finally:
            hub.shutdown()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        if self.headers["Transfer-Encoding"] == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.broken:
            return self._fail(500, message="out of order")
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit)/([^/]+)/?(.*))?", path)
        match = match or re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        repository = self.server.repositories.get(match[1]) if match else None
        if match is None or repository is None or (repository.private and not self._logged_in):
            return self._fail(404 if self._logged_in else 401, "RepoNotFound")
        name, what, revision = match[1], match[2], match[3]
        if what in ("preupload", "commit"):
            return self._write(repository, name, what, body)
        revision = repository.head if revision in (None, "main") else revision
        if revision not in repository.commits:
            return self._fail(404, "RevisionNotFound")
        files = repository.commits[revision]
        if what == "resolve":
            return self._file(repository, revision, files.get(match[4]))
        if what == "tree" and match[4]:  # no repository has folders
            return self._fail(404, "EntryNotFound")
        if what == "tree":
            return self._json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files.items()])
        siblings = [{"rfilename": path} for path in files]
        self._json({"id": name, "sha": revision, "private": repository.private, "siblings": siblings})

    @property
    def _logged_in(self) -> bool:
        return self.headers["Authorization"] == f"Bearer {TOKEN}"

    def _validate(self, content: str) -> None:
        """As the hub does it, a licence has to be one that it knows."""
        data = yaml.safe_load(content.split("\n---\n")[0].removeprefix("---\n"))
        known = data.get("license") in {None, *LICENCES}
        errors = [] if known else [{"message": f'"license" must be one of {sorted(LICENCES)}'}]
        self._json({"errors": errors, "warnings": []}, 200 if known else 400)

    def _create(self, asked: dict[str, Any]) -> None:
        if not self._logged_in:
            return self._fail(401, message="Invalid credentials in Authorization header")
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "user":
            return self._fail(403, message="You don't have the rights to create a model under this namespace")
        code = 409 if name in self.server.repositories else 200
        self.server.repositories.setdefault(name, Repository(asked.get("visibility") == "private"))
        self._json({"url": f"{self.server.url}/{name}", "error": "You already created this model repo"}, code)

    def _write(self, repository: Repository, name: str, what: str, body: bytes) -> None:
        if not self._logged_in:
            return self._fail(401, message="Invalid credentials in Authorization header")
        if what == "preupload":
            files = [{"path": file["path"]} for file in json.loads(body)["files"]]
            return self._json({"files": [file | {"uploadMode": "regular", "shouldIgnore": False} for file in files]})
        files = dict(repository.files)
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        revision = repository.commit(files)
        url = f"{self.server.url}/{name}/commit/{revision}"
        self._json({"success": True, "commitOid": revision, "commitUrl": url, "hookOutput": ""})

    def _file(self, repository: Repository, revision: str, content: bytes | None) -> None:
        if repository.gated:
            return self._fail(403, "GatedRepo")
        if content is None:
            return self._fail(404, "EntryNotFound", {"X-Repo-Commit": revision})
        self._send(200, content, {"X-Repo-Commit": revision, "ETag": f'"{_oid(content)}"'})

    def _json(self, content: Any, code: int = 200) -> None:
        self._send(code, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, kind: str = "", more: dict[str, str] | None = None, *, message: str = "") -> None:
        headers = {"X-Error-Code": kind, "X-Error-Message": message, **(more or {})}
        self._send(code, b"", {name: value for name, value in headers.items() if value})

    def _send(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _oid(content: bytes) -> str:
    """As git names a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
