"""A small Hugging Face hub on localhost: what its client asks for, and faults on demand.

Large files are served as the hub does, by a redirect to another host with the content's hash.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = ("*.pkl", "*.safetensors")


@dataclass
class Repository:
    """Files at each commit, and who may see them.

    Args:
        commits: Content by name, by commit.
        branches: Commit of each branch.
        license: In the card's metadata; None leaves it out.
        status: What answers a request, with the hub's code: 200, 401 or 403 for gated ones.
        large: Patterns of the files whose SHA-256 the hub knows.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    license: str | None = None
    status: int = 200
    large: tuple[str, ...] = LARGE

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit that holds just these files; return its id."""
        blobs = sorted((name, _blob_id(content)) for name, content in files.items())
        commit = hashlib.sha1(f"{branch}{len(self.commits)}{blobs}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


@dataclass
class Request:
    """One request as it came, and what went out."""

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


class HubServer:
    """The server's state; `repositories` and `faults` may be changed while it runs."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.created: list[str] = []
        self.ignores_ranges = False
        self.write_token: str | None = None
        self.has_stalled, self.is_closing = threading.Event(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

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
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.is_closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


def use_hub(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process's hub client, whose settings are read on import, at the server."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    values = {
        "ENDPOINT": hub.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN_PATH": str(cache / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)


def hub_environment(endpoint: str, cache: Path) -> dict[str, str]:
    """Return the variables that point a new process's hub client at a server."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


def _blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _make_handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            self._entry = Request(
                self.command,
                unquote(parts.path),
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
            hub.requests.append(self._entry)
            size = int(self.headers.get("Content-Length") or 0)
            chunked = self.headers.get("Transfer-Encoding") == "chunked"
            self._body = self._read_chunks() if chunked else self.rfile.read(size)
            words = [unquote(word) for word in parts.path.strip("/").split("/")]
            if words[0] == "cdn":
                self._send_large(words[1])
            elif words[:2] == ["api", "models"]:
                self._answer_models("/".join(words[2:4]), words[4:], parse_qs(parts.query))
            elif words[0] == "api":
                self._answer_other_api("/".join(words[1:]))
            elif len(words) >= 5 and words[2] == "resolve":
                self._resolve("/".join(words[:2]), words[3], "/".join(words[4:]))
            else:
                self._refuse(404)

        def _read_chunks(self) -> bytes:
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def _find(self, repo_id: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
            """Return commit and files, or answer with an error as the hub words it."""
            repository = hub.repositories.get(repo_id)
            if repository is None:
                # The hub does not tell strangers whether a repository is private or not there.
                self._refuse(401, "RepoNotFound")
            elif repository.status == 403:
                self._refuse(403, "GatedRepo")
            elif repository.status != 200:
                self._refuse(repository.status)
            elif (commit := repository.branches.get(revision, revision)) in repository.commits:
                return commit, repository.commits[commit]
            else:
                self._refuse(404, "RevisionNotFound")
            return None

        def _answer_models(self, repo_id: str, words: list[str], query: dict) -> None:
            if words[:1] in (["preupload"], ["commit"]):
                self._receive(repo_id, words[0], words[1])
                return
            found = self._find(repo_id, words[1] if len(words) > 1 else "main")
            if found is None:
                return
            commit, files = found
            repository = hub.repositories[repo_id]
            sizes = {name: self._describe(repository, name, files[name]) for name in files}
            if words[:1] == ["tree"]:
                tree = [
                    {"type": "file", "path": name, "oid": value["blobId"], "size": value["size"]}
                    | (
                        {"lfs": value["lfs"] | {"oid": value["lfs"]["sha256"]}}
                        if value["lfs"]
                        else {}
                    )
                    for name, value in sizes.items()
                ]
                self._send_json(tree)
                return
            has_sizes = "blobs" in query
            siblings = [
                {"rfilename": name} | (value if has_sizes else {}) for name, value in sizes.items()
            ]
            card = {"license": repository.license} if repository.license else {}
            info = {"id": repo_id, "modelId": repo_id, "sha": commit, "private": False}
            self._send_json(info | {"tags": [], "siblings": siblings, "cardData": card})

        def _describe(self, repository: Repository, name: str, content: bytes) -> dict:
            lfs = None
            if any(fnmatch(name, pattern) for pattern in repository.large):
                sha256 = hashlib.sha256(content).hexdigest()
                lfs = {"size": len(content), "sha256": sha256, "pointerSize": 130}
            return {"size": len(content), "blobId": _blob_id(content), "lfs": lfs}

        def _resolve(self, repo_id: str, revision: str, name: str) -> None:
            found = self._find(repo_id, revision)
            if found is None:
                return
            commit, files = found
            if name not in files:
                self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
                return
            value = self._describe(hub.repositories[repo_id], name, files[name])
            headers = {"X-Repo-Commit": commit, "ETag": f'"{value["blobId"]}"'}
            if value["lfs"] is None:
                self._send(200, files[name], headers)
                return
            sha256 = value["lfs"]["sha256"]
            headers |= {"X-Linked-Size": str(value["size"]), "X-Linked-ETag": f'"{sha256}"'}
            # Another name of this machine, so that the client sees another host.
            headers["Location"] = f"http://localhost:{hub.port}/cdn/{sha256}"
            self._send(302, b"", headers)

        def _send_large(self, sha256: str) -> None:
            contents = (
                content
                for repository in hub.repositories.values()
                for files in repository.commits.values()
                for content in files.values()
            )
            content = next(c for c in contents if hashlib.sha256(c).hexdigest() == sha256)
            start, status, headers = 0, 200, {"Accept-Ranges": "bytes"}
            if self._entry.range and not hub.ignores_ranges:
                start = int(self._entry.range.removeprefix("bytes=").split("-")[0])
                if start >= len(content):
                    self._refuse(416)
                    return
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            fault = hub.faults.pop(0) if self.command == "GET" and hub.faults else None
            if fault is not None and fault.kind == "corrupt":
                at = fault.after
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
                fault = None
            self._send(status, content[start:], headers, fault)

        def _answer_other_api(self, path: str) -> None:
            if path == "validate-yaml":
                self._send_json({"errors": [], "warnings": []})
            elif path == "repos/create":
                if hub.write_token is None or not self._may_write():
                    self._refuse(401, message="Invalid credentials in Authorization header")
                    return
                wish = json.loads(self._body)
                repo_id = f"{wish['organization']}/{wish['name']}"
                if repo_id not in hub.repositories:
                    hub.created.append(repo_id)
                    hub.add(repo_id, {".gitattributes": b""})
                self._send_json({"url": f"{hub.endpoint}/{repo_id}", "id": repo_id})
            else:
                self._refuse(404)

        def _may_write(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {hub.write_token}"

        def _receive(self, repo_id: str, what: str, revision: str) -> None:
            if not self._may_write():
                self._refuse(403)
                return
            if what == "preupload":
                names = [file["path"] for file in json.loads(self._body)["files"]]
                answer = {"uploadMode": "regular", "shouldIgnore": False}
                self._send_json({"files": [{"path": name} | answer for name in names]})
                return
            repository = hub.repositories[repo_id]
            files = dict(repository.commits[repository.branches[revision]])
            for line in self._body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    files[entry["value"]["path"]] = content
            commit = repository.commit(files, revision)
            url = f"{hub.endpoint}/{repo_id}/commit/{commit}"
            self._send_json({"success": True, "commitUrl": url, "commitOid": commit})

        def _refuse(
            self,
            status: int,
            code: str | None = None,
            headers: dict[str, str] | None = None,
            message: str = "",
        ) -> None:
            errors = {"X-Error-Code": code} if code else {}
            if message:
                errors["X-Error-Message"] = message
            self._send(status, b"", errors | (headers or {}))

        def _send_json(self, value: object) -> None:
            self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None
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
            if fault is not None and fault.kind == "stall":
                hub.has_stalled.set()
                hub.is_closing.wait(60)

    return Handler
