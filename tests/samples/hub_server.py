"""A stand-in for the Hugging Face hub on the loopback: repositories in memory, for the real client."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USER, TOKEN = "me", "hf_right"


class Repo:
    """A repository: its files, whether it is private, and its commit messages."""

    def __init__(self, private: bool = False) -> None:
        self.files: dict[str, bytes] = {}
        self.private = private
        self.gated = False
        self.messages: list[str] = []

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """`repos` by name; a commit needs `TOKEN`, and only `USER` may write to `me/...`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *words: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, {"error": message}, X_Error_Code=code, X_Error_Message=message)

    @property
    def _logged_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self) -> None:
        path, body = self.path.partition("?")[0], self._body()
        self.server.asked.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if not self._logged_in:
            return self._refuse(401, "Unauthorized", "Invalid username or password.")
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or USER
            name = f"{owner}/{asked['name']}"
            if owner != USER:
                return self._refuse(403, "Forbidden", f"You don't have the rights to create a model under {owner}")
            if name in self.server.repos:
                return self._answer(409, {"error": "exists", "url": f"{self.server.url}/{name}"})
            self.server.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
            return self._answer(200, {"url": f"{self.server.url}/{name}"})
        if match := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/blobs/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return self._answer(200, {"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/[^/]+", path)
        if match is None or match[1] not in self.server.repos:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if not match[1].startswith(f"{USER}/"):
            return self._refuse(403, "Forbidden", "You do not have write access")
        if match[2] == "preupload":
            modes = {True: "lfs", False: "regular"}
            files = json.loads(body)["files"]
            about = [(one["path"], modes[one["path"].endswith(".safetensors")]) for one in files]
            answer = [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in about]
            return self._answer(200, {"files": answer})
        return self._commit(match[1], body)

    def _commit(self, name: str, body: bytes) -> None:
        repo = self.server.repos[name]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                repo.messages.append(value["summary"])
            elif line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.server.blobs[value["oid"]]
        url = f"{self.server.url}/{name}/commit/{repo.sha}"
        self._answer(200, {"success": True, "commitOid": repo.sha, "commitUrl": url})

    def do_PUT(self) -> None:
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.blobs[oid] = content
        self._answer(200)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if path == "/":
            return self._answer(200)
        if path == "/api/whoami-v2":
            answer = {"name": USER, "type": "user", "orgs": [], "auth": {"type": "access_token"}}
            return self._answer(200, answer) if self._logged_in else self._refuse(401, "Unauthorized", "Invalid token")
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/[^/]+(/.*)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        match = api or file
        repo = self.server.repos.get(match[1]) if match else None
        if repo is None or match is None or (repo.private and not self._logged_in):
            return self._refuse(404 if self._logged_in else 401, "RepoNotFound", "Repository not found")
        if file is not None and repo.gated:
            return self._refuse(403, "GatedRepo", "Access to this model is restricted.")
        if file is not None:
            content = repo.files.get(file[2])
            if content is None:
                return self._answer(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=repo.sha)
            etag = f'"{hashlib.sha1(content).hexdigest()}"'
            return self._answer(200, content, ETag=etag, X_Repo_Commit=repo.sha)
        assert api is not None
        if api[2] != "tree":
            siblings = [{"rfilename": name} for name in repo.files]
            return self._answer(200, {"id": api[1], "sha": repo.sha, "private": repo.private, "siblings": siblings})
        if api[3]:
            return self._answer(404, b"", X_Error_Code="EntryNotFound")
        tree = [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in repo.files.items()
        ]
        return self._answer(200, tree)


@contextmanager
def hub() -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
