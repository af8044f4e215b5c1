"""A small Hugging Face hub on localhost: what its client asks for, and faults on demand.

Large files are served as the hub does, by a redirect to another host with the content's hash.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants


@dataclass
class Repository:
    """Files at each commit (content by name), and the status that answers requests."""

    license: str | None = None
    status: int = 200
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit that holds just these files; return its id."""
        text = f"{branch}{len(self.commits)}{sorted(files.items())}"
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits[commit], self.branches[branch] = dict(files), commit
        return commit


@dataclass
class Request:
    """One request as it came, and how many bytes of content went out."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    num_sent: int = 0


@dataclass
class Fault:
    """What happens to one download of a large file.

    Args:
        kind: "cut" closes the connection, "stall" sends nothing more, "corrupt" changes a byte.
        after: Bytes that are sent properly before.
    """

    kind: str
    after: int


class HubServer(ThreadingHTTPServer):
    """The server's state; `repositories` and `faults` may be changed while it runs."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []

        self.is_closing = threading.Event()

    def add(self, repo_id: str, files: dict[str, bytes], **options) -> Repository:
        """Add a repository with one commit on main."""
        self.repositories[repo_id] = Repository(**options)
        self.repositories[repo_id].commit(files)
        return self.repositories[repo_id]

    def downloads(self) -> list[Request]:
        """Return the requests for the content of large files."""
        return [r for r in self.requests if r.method == "GET" and r.path.startswith("/cdn/")]

    @contextmanager
    def running(self) -> Iterator["HubServer"]:
        """Serve until the block ends."""
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self.is_closing.set()
            self.shutdown()
            self.server_close()


def use_hub(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process's hub client, whose settings are read on import, at the server."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    values = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)


def _describe(content: bytes, name: str) -> dict:
    """Return what the hub says of a file; it knows the SHA-256 of large ones."""
    sha256 = hashlib.sha256(content).hexdigest()
    lfs = {"size": len(content), "sha256": sha256, "oid": sha256, "pointerSize": 130}
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    is_large = name.endswith((".pkl", ".safetensors", ".bin", ".ckpt"))
    return {"size": len(content), "blobId": blob, "lfs": lfs if is_large else None}


class _Refusal(Exception):
    """A status, and the hub's code for it."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        wanted, token = self.headers.get("Range"), self.headers.get("Authorization")
        self._entry = Request(self.command, path, wanted, token)
        self.server.requests.append(self._entry)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            for pattern, answer in _ROUTES:
                if match := re.fullmatch(pattern, path):
                    answer(self, *match.groups())
                    return
            # Nobody may write.
            raise _Refusal(401 if self.command == "POST" else 404, None)
        except _Refusal as refusal:
            status, code = refusal.args
            self._send(b"", {"X-Error-Code": code} if code else {}, status)

    do_GET = do_HEAD = do_POST = _answer

    def _find(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]]:
        repository = self.server.repositories.get(repo_id)
        if repository is None:
            # The hub does not tell strangers whether a repository is private or not there.
            raise _Refusal(401, "RepoNotFound")
        if repository.status != 200:
            raise _Refusal(repository.status, "GatedRepo" if repository.status == 403 else None)
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise _Refusal(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    def _tell(self, repo_id: str, what: str = "revision", revision: str = "main") -> None:
        commit, files = self._find(repo_id, revision)
        license = self.server.repositories[repo_id].license
        facts = {name: _describe(content, name) for name, content in files.items()}
        if what == "tree":
            file = {"type": "file"}
            answer = [file | {"path": n, "oid": f["blobId"]} | f for n, f in facts.items()]
        else:
            answer = {"id": repo_id, "sha": commit, "private": False, "tags": []}
            answer["cardData"] = {"license": license} if license else {}
            answer["siblings"] = [{"rfilename": name} | fact for name, fact in facts.items()]
        self._send(json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        commit, files = self._find(repo_id, revision)
        if name not in files:
            raise _Refusal(404, "EntryNotFound")
        fact = _describe(files[name], name)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{fact["blobId"]}"'}
        if fact["lfs"] is None:
            self._send(files[name], headers)
            return
        sha256 = fact["lfs"]["sha256"]
        headers |= {"X-Linked-Size": str(fact["size"]), "X-Linked-ETag": f'"{sha256}"'}
        # Another name of this machine, so that the client sees another host.
        headers["Location"] = f"http://localhost:{self.server.server_port}/cdn/{sha256}"
        self._send(b"", headers, 302)

    def _send_large(self, sha256: str) -> None:
        commits = [c for r in self.server.repositories.values() for c in r.commits.values()]
        contents = [content for files in commits for content in files.values()]
        content = next(c for c in contents if hashlib.sha256(c).hexdigest() == sha256)
        start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
        if self._entry.range:
            start, status = int(re.findall(r"\d+", self._entry.range)[0]), 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        is_faulty = self.command == "GET" and self.server.faults
        fault = self.server.faults.pop(0) if is_faulty else None
        if fault is not None and fault.kind == "corrupt":
            at, fault = fault.after, None
            content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        self._send(content[start:], headers, status, fault)

    def _send(
        self, body: bytes, headers: dict[str, str], status: int = 200, fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        good = body if fault is None else body[: fault.after]
        try:
            self.wfile.write(good)
            self.wfile.flush()
        except OSError:
            return
        self._entry.num_sent = len(good)
        if fault is not None:
            self.close_connection = True
            if fault.kind == "stall":
                self.server.is_closing.wait(60)


_ROUTES = (
    (r"/cdn/(\w+)", _Handler._send_large),
    (r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)", _Handler._tell),
    (r"/api/models/([^/]+/[^/]+)", _Handler._tell),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler._resolve),
)
