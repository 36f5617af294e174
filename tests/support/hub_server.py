"""A small Hugging Face Hub on loopback, in a process of its own, for the unpatched huggingface_hub client.

It speaks the part of the HTTP API that reading and committing need: repository info, tree, resolve with ETag and
ranges (LFS files by redirect, as the real hub does), preupload, LFS batch / upload / verify, commit. Faults are set
through ``POST /_control``; ``GET /_log`` tells what was asked. Xet is not spoken: clients set HF_HUB_DISABLE_XET=1.

Load it from a conftest (see tests/goldens/conftest.py), then ``with HubServer() as hub: hub.url``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin")
_REPO = r"(?P<name>[\w.-]+/[\w.-]+)"
_KIND = r"(?P<kind>models|datasets)"


@dataclass(frozen=True)
class Entry:
    """A file of a commit: where its bytes are, and whether they are in LFS."""

    oid: str
    size: int
    lfs: bool


@dataclass
class Repo:
    """Commits (files by path), and the branches that point at them."""

    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Entry], branch: str = "main") -> str:
        """Add a commit on top of a branch."""
        body = json.dumps([len(self.commits), sorted((k, v.oid) for k, v in files.items())])
        sha = hashlib.sha1(body.encode(), usedforsecurity=False).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str | None:
        """The commit that a branch or a full hash names."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)


class State:
    """Everything the server knows, under one lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.received: set[tuple[str, str]] = set()
        """Repository and sha256 of every LFS object that was uploaded."""
        self.faults: list[dict[str, Any]] = []
        self.log: list[str] = []

    def put(self, data: bytes, lfs: bool) -> Entry:
        """Keep bytes, named as git (or LFS) names them."""
        if lfs:
            oid = hashlib.sha256(data).hexdigest()
        else:
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        self.blobs[oid] = data
        return Entry(oid, len(data), lfs)

    def fault(self, kind: str, line: str) -> dict[str, Any] | None:
        """A fault of this kind that is to happen to this request; each happens ``times`` times."""
        for fault in self.faults:
            if fault["kind"] == kind and fault["match"] in line and fault["times"] > 0:
                fault["times"] -= 1
                return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for a delayed acknowledgement
    state: State

    def log_message(self, *_args: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._route()

    def do_HEAD(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self._body(length)
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        state = self.state
        with state.lock:
            if path == "/_control":
                return self._json(200, self._control(json.loads(body)))
            if path == "/_log":
                answer, state.log = state.log, []
                return self._json(200, answer)
            state.log.append(f"{line} {self.headers.get('Range', '')}".strip())
            if fault := state.fault("status", line):
                return self._json(fault["status"], {"error": "a fault that was asked for"})
            for pattern, method in ROUTES:
                if match := re.fullmatch(pattern, line):
                    return method(self, body, **match.groupdict())
        return self._json(404, {"error": f"no such route: {line}"})

    def _body(self, length: int) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(length)
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _repo(self, kind: str, name: str) -> Repo | None:
        return self.state.repos.get((kind, name))

    def _control(self, order: dict[str, Any]) -> Any:
        if order["do"] == "fault":
            self.state.faults.append({"times": 1, "match": "", **order})
        elif order["do"] == "clear":
            self.state.faults.clear()
        elif order["do"] == "create":
            repo = self.state.repos.setdefault((order["kind"], order["id"]), Repo())
            return repo.commit({".gitattributes": self.state.put(b"*.safetensors filter=lfs\n", False)})
        elif order["do"] == "commit":
            repo = self.state.repos[order["kind"], order["id"]]
            files = dict(repo.commits[repo.branches["main"]])
            for path, text in order["files"].items():
                data = base64.b64decode(text)
                files[path] = self.state.put(data, path.endswith(LFS_SUFFIXES))
            return repo.commit(files)
        elif order["do"] == "head":
            return self.state.repos[order["kind"], order["id"]].branches["main"]
        return None

    def info(self, _body: bytes, kind: str, name: str, rev: str | None = None) -> None:
        found = self._commit(kind, name, rev or "main")
        if found is not None:
            sha, files = found
            siblings = [{"rfilename": path} for path in sorted(files)]
            self._json(200, {"id": name, "sha": sha, "siblings": siblings, "private": False, "tags": []})

    def tree(self, _body: bytes, kind: str, name: str, rev: str) -> None:
        found = self._commit(kind, name, rev)
        if found is not None:
            rows = []
            for path, entry in sorted(found[1].items()):
                row = {"type": "file", "path": path, "size": entry.size, "oid": entry.oid}
                if entry.lfs:
                    row["lfs"] = {"oid": entry.oid, "size": entry.size, "pointerSize": 134}
                rows.append(row)
            self._json(200, rows)

    def resolve(self, _body: bytes, name: str, rev: str, path: str, kind: str | None = None) -> None:
        found = self._commit("datasets" if kind else "models", name, rev)
        if found is None:
            return None
        sha, files = found
        entry = files.get(path)
        if entry is None:
            return self._json(
                404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha}
            )
        head = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"'}
        if not entry.lfs:
            return self._bytes(entry, head, path)
        link = {"X-Linked-Etag": f'"{entry.oid}"', "X-Linked-Size": str(entry.size)}
        host = self.headers["Host"].replace("127.0.0.1", "localhost")  # another host, as the real one's storage is
        return self._send(302, b"", {**head, **link, "Location": f"http://{host}/cdn/{entry.oid}/{path}"})

    def cdn(self, _body: bytes, oid: str, path: str) -> None:
        self._bytes(Entry(oid, len(self.state.blobs[oid]), True), {"ETag": f'"{oid}"'}, path)

    def preupload(self, body: bytes, kind: str, name: str, rev: str) -> None:
        found = self._commit(kind, name, rev)
        if found is not None:
            rows = []
            for row in json.loads(body)["files"]:
                mode = "lfs" if row["path"].endswith(LFS_SUFFIXES) else "regular"
                present = found[1].get(row["path"])
                oid = present.oid if present is not None else None
                rows.append({"path": row["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._json(200, {"files": rows})

    def batch(self, body: bytes, name: str, kind: str | None = None) -> None:
        objects = []
        for row in json.loads(body)["objects"]:
            answer = {"oid": row["oid"], "size": row["size"]}
            if (name, row["oid"]) not in self.state.received:
                base = f"http://{self.headers['Host']}"
                answer["actions"] = {
                    "upload": {"href": f"{base}/lfs/{name}/{row['oid']}"},
                    "verify": {"href": f"{base}/lfs-verify"},
                }
            objects.append(answer)
        self._json(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, name: str, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self._json(400, {"error": "the bytes are not what their name says"})
        self.state.blobs[oid] = body
        self.state.received.add((name, oid))
        return self._json(200, {})

    def verify(self, body: bytes) -> None:
        row = json.loads(body)
        fine = len(self.state.blobs.get(row["oid"], b"")) == row["size"]
        self._json(200 if fine else 404, {})

    def commit(self, body: bytes, kind: str, name: str, rev: str) -> None:
        found = self._commit(kind, name, rev)
        if found is None:
            return None
        sha, files = found[0], dict(found[1])
        for line in body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "header" and value.get("parentCommit", sha) != sha:
                return self._json(412, {"error": "A commit has happened since. Please refresh and try again."})
            if row["key"] == "file":
                files[value["path"]] = self.state.put(base64.b64decode(value["content"]), False)
            elif row["key"] == "lfsFile":
                if (name, value["oid"]) not in self.state.received:
                    return self._json(400, {"error": f"LFS object {value['oid']} was never uploaded"})
                files[value["path"]] = Entry(value["oid"], value["size"], True)
            elif row["key"] == "deletedFile":
                files.pop(value["path"])
            elif row["key"] == "deletedFolder":
                files = {path: entry for path, entry in files.items() if not path.startswith(value["path"])}
        oid = self.state.repos[kind, name].commit(files, rev)
        return self._json(200, {"commitOid": oid, "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{oid}"})

    def _commit(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, Entry]] | None:
        repo = self._repo(kind, name)
        if repo is None:
            self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
            return None
        sha = repo.find(revision)
        if sha is None:
            self._json(404, {"error": "Revision not found"}, {"X-Error-Code": "RevisionNotFound"})
            return None
        return sha, repo.commits[sha]

    def _bytes(self, entry: Entry, headers: dict[str, str], path: str) -> None:
        data, status = self.state.blobs[entry.oid], 200
        line = f"{self.command} {path}"
        if self.command == "GET" and self.state.fault("corrupt", line):
            data = bytes([data[0] ^ 0xFF]) + data[1:]
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(int(match[2]) + 1, len(data)) if match[2] else len(data)
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        headers["Accept-Ranges"] = "bytes"
        drop = self.state.fault("drop", line) if self.command == "GET" else None
        self._send(status, data, headers, drop["after"] if drop else None)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str], drop_after: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(data if drop_after is None else data[:drop_after])
        if drop_after is not None:  # the network goes away in the middle of a file
            self.wfile.flush()
            self.close_connection = True


ROUTES: list[tuple[str, Any]] = [
    (rf"GET /api/{_KIND}/{_REPO}", Handler.info),
    (rf"GET /api/{_KIND}/{_REPO}/revision/(?P<rev>[^/]+)", Handler.info),
    (rf"GET /api/{_KIND}/{_REPO}/tree/(?P<rev>[^/]+)/?", Handler.tree),
    (rf"POST /api/{_KIND}/{_REPO}/preupload/(?P<rev>[^/]+)", Handler.preupload),
    (rf"POST /api/{_KIND}/{_REPO}/commit/(?P<rev>[^/]+)", Handler.commit),
    (rf"POST /(?P<kind>datasets/)?{_REPO}\.git/info/lfs/objects/batch", Handler.batch),
    (rf"PUT /lfs/{_REPO}/(?P<oid>[0-9a-f]{{64}})", Handler.upload),
    (r"POST /lfs-verify", Handler.verify),
    (r"(?:GET|HEAD) /cdn/(?P<oid>[0-9a-f]{64})/(?P<path>.+)", Handler.cdn),
    (rf"(?:GET|HEAD) /(?P<kind>datasets/)?{_REPO}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Handler.resolve),
]


class HubServer:
    """Starts the server in a process of its own and talks to its control door."""

    def __enter__(self) -> HubServer:
        self._process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        return self

    def __exit__(self, *_args: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process: from now on there is no network."""
        self._process.terminate()
        self._process.wait(timeout=30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def create(self, name: str, kind: str = "datasets") -> str:
        """Make an empty repository; returns its first commit."""
        return str(self._control({"do": "create", "kind": kind, "id": name}))

    def commit(self, name: str, files: dict[str, bytes], kind: str = "datasets") -> str:
        """Somebody else commits files; returns the commit."""
        encoded = {path: base64.b64encode(data).decode() for path, data in files.items()}
        return str(self._control({"do": "commit", "kind": kind, "id": name, "files": encoded}))

    def head(self, name: str, kind: str = "datasets") -> str:
        """Newest commit of ``main``."""
        return str(self._control({"do": "head", "kind": kind, "id": name}))

    def fail(self, kind: str, match: str, *, times: int = 1, **more: object) -> None:
        """Set a fault: ``status`` (``status=500``), ``drop`` (``after=bytes``) or ``corrupt``, for requests whose
        ``METHOD path`` contains ``match``."""
        self._control({"do": "fault", "kind": kind, "match": match, "times": times, **more})

    def heal(self) -> None:
        """Forget all faults."""
        self._control({"do": "clear"})

    def log(self) -> list[str]:
        """Requests since the last call, as ``METHOD path [range]``."""
        with urllib.request.urlopen(f"{self.url}/_log", timeout=30) as answer:  # noqa: S310 - loopback
            return list(json.load(answer))

    def _control(self, order: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}/_control", data=json.dumps(order).encode())  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return json.load(answer)


def main() -> None:
    """Serve until terminated; the first line of stdout is the URL."""
    Handler.state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"http://127.0.0.1:{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
