"""A hub in a thread: the few addresses of the hub's file protocol that a download uses, on a real socket.

`/api/models/ORG/NAME[/revision/REV]` tells the commit, `/api/models/ORG/NAME/tree/COMMIT` lists the files, and
`/ORG/NAME/resolve/COMMIT/FILE` sends a small file, or sends the reader on to another host for a large one, as the hub
does: there the file's name is its SHA-256. Byte ranges are served there.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/models/(?P<repo>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/]+))?"
)
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
LARGE = (".safetensors", ".bin")
"""Endings of the files that the hub keeps by their SHA-256."""


class Request(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Repo:
    """One model: its commits, and the names that stand for them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    """Anyone sees the list of files, and only who has a token reads them."""


class HubServer:
    """`with HubServer() as hub:` listens on a free port of this machine at `hub.url`."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.cut: dict[str, list[int]] = {}
        """File name -> the bytes after which the connection breaks, for one answer after the other."""
        self.status: dict[str, int] = {}
        """A part of a path -> the status that it is answered with."""
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self})
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """From here on nothing listens; harmless when repeated."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Put a commit on a branch; its hash."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        found = self.repos.setdefault(repo, Repo())
        found.commits[commit] = files
        found.refs[branch] = commit
        return commit

    def fetched(self) -> list[str]:
        """The bodies that were asked for: file names, in order."""
        names = {hashlib.sha256(body).hexdigest(): name for name, body in self._bodies()}
        paths = [
            unquote(urlsplit(request.path).path)
            for request in self.requests
            if request.method == "GET"
        ]
        last = [path.rpartition("/")[2] for path in paths]
        files = {name for name, _ in self._bodies()}
        return [names.get(name, name) for name in last if names.get(name, name) in files]

    def _bodies(self) -> list[tuple[str, bytes]]:
        commits = [files for repo in self.repos.values() for files in repo.commits.values()]
        return [
            (name.rpartition("/")[2], body) for files in commits for name, body in files.items()
        ]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: object) -> None:
        """Keep stderr for the tests."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.requests.append(
            Request(
                self.command,
                self.path,
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        path = urlsplit(self.path).path
        for part, status in self.hub.status.items():
            if part in path:
                return self._send(status, {})
        if path.startswith("/large/"):
            return self._large(path.removeprefix("/large/"))
        match = API.fullmatch(path) or RESOLVE.fullmatch(path)
        repo = self.hub.repos.get(match["repo"]) if match else None
        if match is None or repo is None:
            return self._send(
                401, {"X-Error-Code": "RepoNotFound"}
            )  # the hub does not tell strangers what is missing
        revision = unquote(match["revision"] or "main")
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self._send(404, {"X-Error-Code": "RevisionNotFound"})
        files = repo.commits[commit]
        if match.re is RESOLVE:
            return self._resolve(repo, commit, files, unquote(match["file"]))
        document = _tree(files) if match["what"] == "tree" else {"id": match["repo"], "sha": commit}
        return self._send(200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    def _resolve(self, repo: Repo, commit: str, files: dict[str, bytes], name: str) -> None:
        headers = {"X-Repo-Commit": commit}
        if repo.gated and not self.headers.get("Authorization"):
            return self._send(401, {"X-Error-Code": "GatedRepo"})
        if name not in files:
            return self._send(404, headers | {"X-Error-Code": "EntryNotFound"})
        body = files[name]
        if not name.endswith(LARGE):
            return self._send(200, headers | {"ETag": f'"{_blob(body)}"'}, body)
        digest = hashlib.sha256(body).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
        # Another host than 127.0.0.1 to the reader, which keeps its token to itself there.
        return self._send(
            302,
            headers | {"Location": f"http://localhost:{self.hub.port}/large/{digest}?name={name}"},
        )

    def _large(self, digest: str) -> None:
        (name,) = parse_qs(urlsplit(self.path).query)["name"]
        body = next(
            body for _, body in self.hub._bodies() if hashlib.sha256(body).hexdigest() == digest
        )
        given = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(given[1]) if given else 0
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if given else {}
        cuts = self.hub.cut.get(name, [])
        self._send(206 if given else 200, headers, body[start:], cuts.pop(0) if cuts else None)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes = b"", cut: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])


def _blob(body: bytes) -> str:
    """Git's name of a file: SHA-1 over a header and the bytes."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def _tree(files: dict[str, bytes]) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = [
        {"type": "directory", "path": folder, "oid": "0" * 40, "size": 0}
        for folder in sorted({name.rpartition("/")[0] for name in files} - {""})
    ]
    for name, body in files.items():
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(body),
            "oid": _blob(body),
        }
        if name.endswith(LARGE):
            entry["lfs"] = {
                "oid": hashlib.sha256(body).hexdigest(),
                "size": len(body),
                "pointerSize": 134,
            }
        entries.append(entry)
    return entries
