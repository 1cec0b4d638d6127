"""What all tests share: a scripted OpenAI-compatible endpoint on a socket, and walls around the network, the home folder and the key."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.update(AXOLOTL_DO_NOT_TRACK="1", DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="")

os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / "matplotlib-of-tests"))  # its list of fonts takes seconds to make: once for all


@pytest.fixture(autouse=True)
def walls(monkeypatch, tmp_path):
    """No key, no endpoint, no home of the user's, and no connection that leaves this machine."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "TUNED_BASE_URL", "HF_TOKEN", "WANDB_API_KEY", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test tried to reach {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


class Endpoint:
    """A server that answers chat completions with `script(body)`: text, (text, finish reason), or (status, error message)."""

    def __init__(self):
        self.script = lambda body: "An answer."
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.models = ["scripted"]
        self.lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # else each reply waits 40 ms for the acknowledgement of its headers

            def log_message(self, *_):
                pass

            def send(self, status: int, value: dict) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.send(200, {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in outer.models]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer.lock:
                    outer.bodies.append(body)
                    outer.keys.append(self.headers.get("Authorization"))
                reply = outer.script(body)
                text, finish = reply if isinstance(reply, tuple) else (reply, "stop")
                if isinstance(text, int):
                    return self.send(text, {"error": {"message": finish, "type": "test"}})
                choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
                usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
                return self.send(200, {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage})

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, client_address):  # clients that stop in the middle are part of the tests
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()  # how long `close` waits

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch):
    server = Endpoint()
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    yield server
    server.close()


def part_of(body: dict) -> str:
    """Which of the four prompts a request carries, or `plain`."""
    first = body["messages"][0]
    if first["role"] != "system":
        return "plain"
    text = first["content"]
    return next(
        name for name in ("human_like", "formal", "questions_conversational", "questions_general") if (ROOT / f"datagen/prompts/{name}.txt").read_text().strip() == text
    )


def play(body: dict) -> str:
    """A stand-in for the large models: lists questions, and answers in both styles, differently for every question."""
    part, asked = part_of(body), body["messages"][-1]["content"]
    if part.startswith("questions"):
        things = [
            "tea",
            "rain",
            "chess",
            "bread",
            "trains",
            "owls",
            "clay",
            "maps",
            "soup",
            "kites",
            "moss",
            "drums",
            "glass",
            "snow",
            "figs",
            "boats",
            "wool",
            "salt",
            "bells",
            "hats",
        ]
        ask = "What do you enjoy about {} on a {} day?" if part.endswith("conversational") else "Why does {} matter in {}?"
        return "\n".join(f"{i}. {ask.format(thing, body['seed'] % 9973)}" for i, thing in enumerate(things, 1))
    if part == "human_like":
        return f"Oh, I love this! {asked.split()[-3]}, right? What about you? 😊"
    return f"It is generally held that {asked.rstrip('?').lower()} is a matter of preference."


def run(*arguments: object, cwd: Path = ROOT, status: int | None = 0, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m …`, with its exit status checked when one is given."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=170, env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    if status is not None:
        assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def inside(module: str, *arguments: object, cwd: Path = ROOT, status: int = 0) -> subprocess.CompletedProcess:
    """As `run`, but in this process: for modules whose imports take seconds."""
    from datagen.files import entry

    out, err = (io.TextIOWrapper(io.BytesIO()) for _ in range(2))
    was, sys.argv, code = (sys.argv, Path.cwd()), [module, *map(str, arguments)], 0
    try:
        os.chdir(cwd)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            entry(importlib.import_module(module).main)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1 if end.code else 0
        if isinstance(end.code, str):
            err.write(end.code)
    finally:
        sys.argv = was[0]
        os.chdir(was[1])
    texts = [(stream.flush(), stream.buffer.getvalue().decode())[1] for stream in (out, err)]
    assert code == status, f"status {code}\n{texts[0]}\n{texts[1]}"
    return subprocess.CompletedProcess([module, *arguments], code, *texts)


def one_line(done: subprocess.CompletedProcess) -> str:
    """The single line of an expected failure."""
    lines = [line for line in done.stderr.strip().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


@pytest.fixture
def project(tmp_path):
    """A copy of what git would check out, without weights, for tests that write where the project writes."""
    return checkout(tmp_path / "project")


def checkout(target: Path) -> Path:
    for name in ("axolotl", "datagen", "train", "eval", "tiny"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__", "text"))
    for path in [ROOT / "Makefile", *ROOT.glob("requirements*.txt"), *ROOT.glob("constraints*.txt")]:
        shutil.copy(path, target)
    return target


def numbers(text: str) -> list[int]:
    return [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", text)]
