"""A stand-in for the hub on loopback: the calls of its HTTP interface that huggingface_hub and datasets make, over
folders kept in memory.

Repositories have commits, branches and tags, and may be gated or private. `cut`, `broken` and `stalled` say what goes
wrong on the way. Commands run in processes of their own, since huggingface_hub reads its environment when it is
imported; there no name of another machine can be looked up.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

ROOT = Path(__file__).parents[1]
TOKENS = {"hf_owner": {"org/gated"}, "hf_stranger": set()}
"""tokens that the hub knows -> gated repositories whose conditions their owners accepted"""
LFS = (".safetensors", ".parquet")
VARIABLES = (
    "HF_", "HUGGING", "TRANSFORMERS_", "TU_", "XDG_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy",
    "https_proxy", "all_proxy",
)  # fmt: skip
"""what the environments of commands do not take over"""


def blob_id(data: bytes) -> str:
    """As git names it."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()  # noqa: S324


@dataclass
class Repo:
    """One repository: of a model or of a data set."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """commit -> path -> content"""
    refs: dict[str, str] = field(default_factory=dict)
    """branch or tag -> commit"""
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """A new commit with these very files; refs: what names it, main unless told."""
        sha = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()  # noqa: S324
        self.commits[sha] = files
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.commits else None)


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        """`models/org/name` or `datasets/org/name`"""
        self.uploads: dict[str, bytes] = {}
        """sha256 -> large files that came before their commit"""
        self.asked: list[str] = []
        """method and path of each request, with the range of bytes where one was asked for"""
        self.cut: dict[str, int] = {}
        """path -> bytes after which the connection is closed, once; from then on at once, until the entry is removed"""
        self.once: dict[str, int] = {}
        """the same, but only once"""
        self.stalled: dict[str, threading.Event] = {}
        """path -> set once half of it was sent; then nothing more comes"""
        self.broken: int | None = None
        """status of every answer"""

    def add(self, name: str, files: Path | dict[str, bytes], *refs: str, **state: bool) -> str:
        """-> the commit."""
        repo = self.repos.setdefault(name, Repo())
        repo.gated, repo.private = state.get("gated", repo.gated), state.get("private", repo.private)
        if isinstance(files, Path):
            files = {p.relative_to(files).as_posix(): p.read_bytes() for p in sorted(files.rglob("*")) if p.is_file()}
        return repo.commit(files, *refs)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [line.rpartition("/")[2] for line in self.asked if line.startswith("GET ") and "/resolve/" in line]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub  # type: ignore[assignment]
    ROUTES: ClassVar = [
        ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
        ("GET", r"/api/(models|datasets)/([^/]+/[^/]+)/tree/([^/]+)/?(.*)", "tree"),
        ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/paths-info/([^/]+)", "paths"),
        ("GET", r"/()([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "file"),
        ("GET", r"/(datasets)/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "file"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "valid"),
        ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/(?:(datasets)/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/lfs/([0-9a-f]{64})", "store"),
        ("POST", r"/api/(models|datasets)/([^/]+/[^/]+)/commit/([^/]+)", "take"),
    ]

    def log_message(self, *_: object) -> None:
        pass

    def answer_request(self) -> None:
        path = urlsplit(self.path).path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        span = self.headers.get("Range")
        self.server.asked.append(f"{self.command} {unquote(path)}" + (f" {span}" if span else ""))
        if self.server.broken is not None:
            return self.refuse(self.server.broken, None, "out of order")
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, name in self.ROUTES:
            if wanted == method and (found := re.fullmatch(pattern, path)):
                return getattr(self, name)(*(unquote(part or "") for part in found.groups()))
        return self.refuse(404, None, "no such page")

    do_GET = do_HEAD = do_POST = do_PUT = answer_request

    # --- answers

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def say(self, value: Any) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def refuse(self, status: int, code: str | None, message: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        self.send(status, json.dumps({"error": message}).encode(), {"X-Error-Message": message, **named})

    # --- who asks for what

    def token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def find(self, kind: str, name: str, revision: str, *, content: bool = False) -> tuple[Repo, str] | None:
        """The repository and the commit; None: the answer was given, and it is no."""
        token, repo = self.token(), self.server.repos.get(f"{kind or 'models'}/{name}")
        if token is not None and token not in TOKENS:
            return self.refuse(401, None, "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token is None):
            return self.refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        if repo.gated and content and name not in TOKENS.get(token or "", ()):
            return self.refuse(401 if token is None else 403, "GatedRepo", f"Access to {name} is restricted")
        sha = repo.find(revision or "main")
        if sha is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, sha

    # --- reading

    def info(self, kind: str, name: str, revision: str) -> None:
        if (found := self.find(kind, name, revision)) is not None:
            repo, sha = found
            siblings = [{"rfilename": path} for path in repo.commits[sha]]
            self.say({"_id": "0", "id": name, "sha": sha, "siblings": siblings, "private": repo.private, "gated": False, "tags": [],
                      "downloads": 0, "likes": 0, "disabled": False})  # fmt: skip

    def tree(self, kind: str, name: str, revision: str, below: str) -> None:
        if (found := self.find(kind, name, revision)) is not None:
            every = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            entries = self.entries(*found, below)
            if below and not entries:
                return self.refuse(404, "EntryNotFound", f"{below} does not exist")
            self.say([e for e in entries if every or "/" not in e["path"][len(below) :].strip("/")])

    def paths(self, kind: str, name: str, revision: str) -> None:
        asked = json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        if (found := self.find(kind, name, revision)) is not None:
            self.say([e for e in self.entries(*found) if e["path"] in asked])

    def entries(self, repo: Repo, sha: str, below: str = "") -> list[dict[str, Any]]:
        """Files and folders of a commit."""
        files, out = repo.commits[sha], []
        folders = {parent.as_posix() for path in files for parent in Path(path).parents} - {"."}
        for path in sorted({*files, *folders}):
            if below and not path.startswith(f"{below}/"):
                continue
            if path in folders:
                out.append({"type": "directory", "path": path, "size": 0, "oid": blob_id(path.encode())})
                continue
            data = files[path]
            lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            out.append(
                {"type": "file", "path": path, "size": len(data), "oid": blob_id(data)} | ({"lfs": lfs} if path.endswith(LFS) else {})
            )
        return out

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        if (found := self.find(kind, name, revision, content=True)) is None:
            return
        repo, sha = found
        data = repo.commits[sha].get(path)
        if data is None:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": sha})
            return
        digest = hashlib.sha256(data).hexdigest() if path.endswith(LFS) else blob_id(data)
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, end = (int(wanted[1]), int(wanted[2] or len(data) - 1) + 1) if wanted else (0, len(data))
        status = 206 if wanted else 200
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{min(end, len(data)) - 1}/{len(data)}"
        if self.command == "GET" and self.interrupted(path, status, data[start:end], headers):
            self.close_connection = True
            return
        self.send(status, data[start:end], headers)

    def interrupted(self, path: str, status: int, data: bytes, headers: dict[str, str]) -> bool:
        """Sends less than it should, where the test wants that."""
        hub = self.server
        if path in hub.once:
            size = hub.once.pop(path)
        elif path in hub.cut:
            size, hub.cut[path] = hub.cut[path], 0
        elif path in hub.stalled:
            size = len(data) // 2
        else:
            return False
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[:size])
        self.wfile.flush()
        if path in hub.stalled:
            hub.stalled[path].set()
            with contextlib.suppress(OSError):
                self.connection.recv(1)  # until the other side is gone
        return True

    # --- writing

    def create(self) -> None:
        if self.token() is None:
            return self.refuse(401, None, "Invalid username or password.")
        asked = json.loads(self.body)
        kind, name = f"{asked.get('type', 'model')}s", f"{asked['organization']}/{asked['name']}"
        repo = self.server.repos.setdefault(
            f"{kind}/{name}", Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        )
        if not repo.commits:
            repo.commit({".gitattributes": b"*.safetensors filter=lfs\n*.parquet filter=lfs\n"})
        self.say({"url": f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}", "name": name})

    def valid(self) -> None:
        self.say({"errors": [], "warnings": []})

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if self.find(kind, name, revision) is not None:
            asked = json.loads(self.body)["files"]
            mode = {True: "lfs", False: "regular"}
            self.say({"files": [{"path": f["path"], "uploadMode": mode[f["path"].endswith(LFS)], "shouldIgnore": False} for f in asked]})

    def batch(self, kind: str, name: str) -> None:
        if self.find(kind, name, "main") is not None:
            objects = json.loads(self.body)["objects"]
            self.say({"transfer": "basic", "objects": [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}", "header": {}}}}
                for o in objects
            ]})  # fmt: skip

    def store(self, digest: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == digest
        self.server.uploads[digest] = self.body
        self.say({})

    def take(self, kind: str, name: str, revision: str) -> None:
        if (found := self.find(kind, name, revision)) is None:
            return
        repo, sha = found
        files = dict(repo.commits[sha])
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.uploads[value["oid"]]
            elif entry["key"] != "header":
                self.refuse(400, None, f"{entry['key']} is not known here")
                return
        new = repo.commit(files, unquote(revision))
        self.say({"commitUrl": f"{self.server.url}/{name}/commit/{new}", "commitOid": new, "success": True})


# --- commands in a process of their own


def environment(hub: Hub, home: Path, **more: str) -> dict[str, str]:
    """That of this process, without what it says of the hub; an entry of `more` that is empty is left out."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(VARIABLES)}
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "",
           "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", "TU_CACHE_DIR": str(home / "tu")}  # fmt: skip
    return kept | own | more


@dataclass
class Answer:
    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one line that the command ended with."""
        assert self.code == 2, f"exit code {self.code}: {self.out}{self.err}"
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        told = [line for line in lines if line.startswith("error: ")]
        assert told == lines[-1:] and not self.out, self.err
        return told[0].removeprefix("error: ")


def start(hub: Hub, home: Path, *commands: list, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.hub_commands", json.dumps([[str(word) for word in command] for command in commands])],
        env=environment(hub, home, **more), cwd=home.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def run(hub: Hub, home: Path, *commands: list, **more: str) -> list[Answer]:
    """Each command's exit code, stdout and stderr. All of them in one process, one after another."""
    out, err = start(hub, home, *commands, **more).communicate(timeout=300)
    answers = [Answer(**json.loads(line)) for line in out.splitlines() if line.startswith("{")]
    assert len(answers) == len(commands), out + err
    return answers
