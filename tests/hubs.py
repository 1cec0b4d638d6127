"""A small Hub on a socket that keeps what is pushed: data sets by name, as files, with every commit remembered."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

TOKEN = "hf_" + "secretsecretsecretsecretsecretsecr"


class Hub:
    """repos: {name: {"private": …, "files": {path: bytes}, "commits": [{path: bytes}, …]}}. `status`: what every request is answered instead, if set."""

    def __init__(self):
        self.repos, self.status, self.keys, self.lock = {}, 0, set(), threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, value, status=200, headers=()):
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in {"Content-Length": str(len(data)), **dict(headers)}.items():
                    self.send_header(name, text)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def body(self):
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers["Content-Length"]))
                chunks = []
                while size := int(self.rfile.readline(), 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def refused(self, body=b""):
                hub.keys.add(self.headers["Authorization"])
                if hub.status:
                    self.reply({"error": f"no, {TOKEN}"}, hub.status)
                return bool(hub.status)

            def do_GET(self):
                if self.refused():
                    return
                path = unquote(self.path.partition("?")[0])
                with hub.lock:
                    if path.startswith("/api/datasets/"):
                        name = "/".join(path.split("/")[3:5])
                        repo = hub.repos.get(name)
                        if repo is None:
                            return self.reply({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                        files = [{"rfilename": file} for file in sorted(repo["files"])]
                        return self.reply({"id": name, "private": repo["private"], "sha": hub.sha(repo), "siblings": files})
                    _, kind, *name, resolve, _, file = path.split("/", 6)
                    repo = hub.repos["/".join(name)]
                    data = repo["files"][file]
                    assert (kind, resolve) == ("datasets", "resolve")
                self.reply(data, 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": hub.sha(repo)})

            do_HEAD = do_GET

            def do_POST(self):
                body = self.body()
                if self.refused():
                    return
                if self.path == "/api/repos/create":
                    made = json.loads(body)
                    name = f"{made['organization']}/{made['name']}"
                    with hub.lock:
                        known = name in hub.repos
                        hub.repos.setdefault(name, {"private": made.get("visibility") == "private", "files": {}, "commits": []})
                    return self.reply({"url": f"{hub.url}/datasets/{name}", "error": "You already created this dataset repo"}, 409 if known else 200)
                if self.path == "/api/validate-yaml":
                    return self.reply({"errors": [], "warnings": []})
                if "/preupload/" in self.path:
                    return self.reply({"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]})
                repo = hub.repos["/".join(self.path.split("/")[3:5])]
                lines = [json.loads(line) for line in body.splitlines()]
                files = {line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"}
                with hub.lock:
                    repo["files"].update(files)
                    repo["commits"].append(files)
                self.reply({"commitUrl": f"{hub.url}/commit/{len(repo['commits'])}", "commitOid": hub.sha(repo), "success": True})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def sha(repo) -> str:
        return hashlib.sha1(repr(len(repo["commits"])).encode()).hexdigest()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def use(monkeypatch, tmp_path, hub: Hub) -> None:
    """Makes huggingface_hub speak to it."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
