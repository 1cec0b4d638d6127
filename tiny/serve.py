"""Serves GGUF files through llama.cpp's own OpenAI-compatible server for as long as a command runs.

    python -m tiny.serve out/tiny-base.gguf -- python -m datagen.questions data/tiny/questions.jsonl --profile tiny
    python -m tiny.serve out/tiny-base.gguf out/tiny/tuned.gguf -- python -m eval.answers …
    python -m tiny.serve out/tiny-base.gguf INQUIRER_BASE_URL=out/tiny-inquirer.gguf -- python -m datagen.roleplay.run --profile tiny
    python -m tiny.serve out/tiny-base.gguf            # until Ctrl-C

Each file gets a server of its own on 127.0.0.1, on a free port. The command finds the first under OPENAI_BASE_URL and a second under
TUNED_BASE_URL; one written as VARIABLE=file under that variable instead. A server names its model `<file>-<hash of the file>`, so replies of
an older model are never taken for its own.
Servers end with the command, also on Ctrl-C or `kill -9` of this program. Logs: `out/serve-<file>.log`.
"""

import argparse
import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from datagen.files import UserError, entry, sha256

SLOTS = 8  # replies written at a time
CONTEXT = 1536  # tokens a slot: system prompt, question, and an answer or a list
START_SECONDS = 60
URLS = ("OPENAI_BASE_URL", "TUNED_BASE_URL")


def die_with_parent() -> None:
    """The kernel sends SIGTERM to this process when its parent ends, however that ends (Linux only)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_here(model: Path, alias: str, port: int) -> None:
    """Runs one server in this process until it is told to end."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {alias}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT
    # One thread: a second one gains nothing on a model this small, and waiting for it costs seconds when the cores are busy.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.use_jinja = True  # the chat template stands in the file
    params.warmup = False
    # llama.cpp's own defaults (top-k 40, min-p 0.05) would change what "temperature 1, top-p 1" means.
    params.sampling.temp, params.sampling.top_p, params.sampling.top_k, params.sampling.min_p = 1.0, 1.0, 0, 0.0
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    while True:
        signal.pause()  # SIGTERM ends the process where it stands: nothing is to be saved, and the library's own tear-down can hang on open connections


@contextlib.contextmanager
def server(model: Path):
    """(alias, base URL) of a running server. Raises UserError, naming its log, when it does not come up."""
    if not model.is_file():
        raise UserError(f"{model}: there is no such file; `make demo` builds it")
    alias = f"{model.stem}-{sha256(model.read_bytes())[:8]}"
    log = Path("out") / f"serve-{model.stem}.log"
    log.parent.mkdir(exist_ok=True)
    port = free_port()
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tiny.serve", str(model), "--alias", alias, "--port", str(port)],
            stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"the server of {model} did not start; its log is {log}: {last_line(log)}")
            time.sleep(0.05)
        yield alias, f"http://127.0.0.1:{port}/v1", process, log
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "(empty)"


def named(models: list[str]) -> list[tuple[str | None, Path]]:
    """(variable that will hold its address, file) of each; a third file without a name of its own has none."""
    plain = iter(URLS)
    split = [re.fullmatch(r"(?:([A-Z][A-Z_]*)=)?(.+)", model).groups() for model in models]
    return [(name or next(plain, None), Path(path)) for name, path in split]


def run(models: list[tuple[str | None, Path]], command: list[str]) -> int:
    """The exit status of `command`, run while the servers are up; without a command they stay until Ctrl-C."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(server(model)) for _, model in models]
        environment = os.environ | {name: url for (name, _), (_, url, _, _) in zip(models, running, strict=True) if name}
        for alias, url, _, log in running:
            print(f"serving {alias} on {url} (log: {log})", flush=True)
        if not command:
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    signal.pause()
            return 0
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            # The child gets the same Ctrl-C and ends. Here it must not become an exception: between the kernel's wait and Popen's note of
            # the status it would lose that status, and the next wait says 0, as if all had gone well.
            signal.signal(signal.SIGINT, lambda *_: None)
        child = subprocess.Popen(command, env=environment, preexec_fn=die_with_parent)
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
        for alias, _, process, log in running:
            if status and process.poll() is not None:
                print(f"error: the server of {alias} ended in the middle (status {process.returncode}); its log is {log}: {last_line(log)}", file=sys.stderr)
        return status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="[VARIABLE=]FILE")
    parser.add_argument("--alias", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    if args.port:
        serve_here(Path(args.models[0]), args.alias, args.port)
    else:
        sys.exit(run(named(args.models), command))


if __name__ == "__main__":
    entry(main)
