"""The part of the Hugging Face Hub that publishing uses, on loopback: repositories, commits, LFS uploads, downloads.

It answers as the Hub does to huggingface_hub 1.33. Repositories and all that was asked are there to look at. Run as a
script it prints its address and serves until its input ends.
"""

import base64
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "a1B2c3D4e5F6g7H8i9J0" * 2
_LFS = (".safetensors", ".parquet")


class FakeHub:
    """Serves on a free port while it is entered.

    Attributes:
        repositories: the files of each, by `models/ORG/NAME` or `datasets/ORG/NAME`; a new one holds `.gitattributes`.
        commits: the names of the files that each commit brought, in order.
        asked: method, path, headers and body of each request.
        fail: by a part of a path, with what status to answer it.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: list[tuple[str, list[str]]] = []
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []
        self.fail: dict[str, int] = {}
        self.objects: dict[str, bytes] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                hub.asked.append((self.command, self.path, headers, body))
                status, content, extra = hub.answer(self.command, self.path.partition("?")[0], headers, body)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **extra}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes, dict[str, str]]:
        for part, status in self.fail.items():
            if part in path:
                return status, b"{}", {}
        may_write = headers.get("authorization") == f"Bearer {TOKEN}"
        if method in ("GET", "HEAD"):
            return self._read(path)
        if path.startswith("/upload/"):  # its address is the secret, as it is at the Hub
            self.objects[path.rpartition("/")[2]] = body
            return _json({})
        if not may_write:
            return 401, b"{}", {"X-Error-Message": "Invalid credentials in Authorization header"}
        return self._write(path, body)

    def _read(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        info = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(/revision/[^/]+|/tree/[^/]+)?", path)
        file = re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        if info is None and file is None:
            return 404, b"{}", {}
        name = info[1] if info else f"{(file[1] or 'models/') if file else ''}{file[2] if file else ''}"
        found = self.repositories.get(name)
        if found is None:
            return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        sha = _sha(found)
        if file is not None:
            if file[3] not in found:
                return 404, b"{}", {"X-Error-Code": "EntryNotFound"}
            content = found[file[3]]
            return 200, content, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": sha}
        assert info is not None
        if (info[2] or "").startswith("/tree/"):
            return _json(
                [
                    {"type": "file", "path": one, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for one, content in found.items()
                ]
            )
        return _json({"id": name.partition("/")[2], "sha": sha, "siblings": [{"rfilename": one} for one in found]})

    def _write(self, path: str, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            status = 409 if name in self.repositories else 200
            self.repositories.setdefault(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            return (status, *_json({"url": f"{self.url}/{name.removeprefix('models/')}"})[1:])
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path.endswith("/info/lfs/objects/batch"):
            oids = [one["oid"] for one in json.loads(body)["objects"]]
            uploads = [
                {"oid": oid, "size": 1, "actions": {"upload": {"href": f"{self.url}/upload/{oid}"}}} for oid in oids
            ]
            return _json({"transfer": "basic", "objects": uploads})
        asked_of = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/(preupload|commit)/main", path)
        assert asked_of is not None, path
        if asked_of[2] == "preupload":
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [
                {"path": one, "uploadMode": "lfs" if one.endswith(_LFS) else "regular", "shouldIgnore": False}
                for one in names
            ]
            return _json({"files": modes})
        brought = {}
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                brought[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                brought[value["path"]] = self.objects[value["oid"]]
        name = asked_of[1]
        self.repositories[name] |= brought
        self.commits.append((name, sorted(brought)))
        sha = _sha(self.repositories[name])
        return _json({"commitUrl": f"{self.url}/{name.removeprefix('models/')}/commit/{sha}", "commitOid": sha})


def _json(value: Any) -> tuple[int, bytes, dict[str, str]]:
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}


def _sha(files: dict[str, bytes]) -> str:
    """The commit that a repository stands at: 40 digits that change with its files."""
    return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


if __name__ == "__main__":
    with FakeHub() as served:
        print(served.url, flush=True)
        sys.stdin.read()
