"""Serves base and tuned model of a run through vLLM for as long as a command runs.

    python -m eval.serve out/llama3-8b -- python -m eval.answers data/paper/llama3-8b/heldout.jsonl out/llama3-8b
    python -m eval.serve out/llama3-8b            # until Ctrl-C

One server holds the base and, beside it, the adapter; a run without an adapter gets a second server for its model. The command finds the addresses
under OPENAI_BASE_URL and TUNED_BASE_URL, the models' names under BASE_MODEL and TUNED_MODEL. A name ends in the hash of its weights, so replies of
another model are never taken for its own. Servers end with the command, also on Ctrl-C or `kill -9` of this program. Logs: `out/<run>/vllm-*.log`.

vLLM pins its own torch, so it lives in an environment of its own: `vllm` on the PATH, or `.venv-vllm/bin/vllm`. VLLM_ARGS in the environment adds
options to its command line, such as VLLM_ARGS='--tensor-parallel-size 2'.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import UserError, entry, read_json
from tiny.serve import answers, die_with_parent, free_port, last_line
from train.merge import check_base, file_hashes, one_hash, weight_files

START_SECONDS = 1800  # weights come from disk, and kernels are compiled the first time
END_SECONDS = 30
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM's LoRAConfig takes as max_lora_rank, but for 1
INSTALL = "install it beside .venv, because it pins its own torch: python3 -m venv .venv-vllm && .venv-vllm/bin/pip install vllm"


@dataclass(frozen=True)
class Models:
    """Where base and tuned model of a run lie, and names that change with their weights."""

    config: dict  # run.yaml
    base: Path
    tuned: Path  # an adapter, or a whole model
    base_name: str
    tuned_name: str
    hashes: dict  # sha256 of the weights: base, tuned

    @property
    def adapter(self) -> bool:
        return (self.tuned / "adapter_config.json").exists()


def models_of(run: Path) -> Models:
    """The two models of a run; the base is fetched where it is not on this machine. Raises UserError when one is missing, or the base is another
    than the one that was trained on."""
    config = read_yaml(run / "run.yaml", "the run's configuration, from `make train`")
    for tuned in (run / "adapter", run / "merged"):
        adapter = tuned / "adapter_model.safetensors"
        if files := [adapter] if adapter.exists() else weight_files(tuned):
            break
    else:
        raise UserError(f"{run}: holds neither an adapter nor a model in adapter/ or merged/; run `make train` first")
    base, identity = check_base(run, config, download=True)
    hashes = {"base": identity["weights_sha256"], "tuned": one_hash(file_hashes(files))}
    stem = "--".join(Path(config["base_model"]).parts[-2:])
    return Models(config, base, tuned, f"{stem}-{hashes['base'][:8]}", f"{run.resolve().name}-{hashes['tuned'][:8]}", hashes)


# ---------------------------------------------------------------- servers


@dataclass(frozen=True)
class Server:
    url: str
    process: subprocess.Popen
    log: Path


def program() -> str:
    found = shutil.which("vllm") or shutil.which(".venv-vllm/bin/vllm")
    if not found:
        raise UserError(f"there is no vllm on the PATH and no .venv-vllm/bin/vllm; {INSTALL}")
    return found


def commands(models: Models) -> list[list[str]]:
    """The arguments of `vllm serve`, without host and port: for one server, or for two where the tuned model is no adapter."""
    # Without --generation-config, the sampling that a model's makers recommend (Qwen2.5: top-k 20, a repetition penalty) would apply to what
    # a request leaves open, and "temperature 1, top-p 1" would mean something else for each base.
    common = ["--generation-config", "vllm", "--max-model-len", str(models.config["sequence_len"])]
    base = [str(models.base), "--served-model-name", models.base_name, *common]
    if not models.adapter:
        half = ["--gpu-memory-utilization", "0.45"]  # each; by default one server takes 0.9 of the GPU
        return [[*base, *half], [str(models.tuned), "--tokenizer", str(models.base), "--served-model-name", models.tuned_name, *common, *half]]
    settings = read_json(models.tuned / "adapter_config.json")
    rank = max([settings["r"], *(settings.get("rank_pattern") or {}).values()])
    fitting = next((r for r in RANKS if r >= rank), None)
    if fitting is None:
        raise UserError(f"{models.tuned}: rank {rank} is more than vLLM serves as an adapter ({RANKS[-1]}); use ENGINE=transformers")
    return [[*base, "--enable-lora", "--max-lora-rank", str(fitting), "--lora-modules", f"{models.tuned_name}={models.tuned}"]]


@contextlib.contextmanager
def server(vllm: str, arguments: list[str], log: Path) -> Iterator[Server]:
    """One running server. Raises UserError, naming its log, when it does not come up."""
    port = free_port()
    command = [vllm, "serve", *arguments, "--host", "127.0.0.1", "--port", str(port), *shlex.split(os.environ.get("VLLM_ARGS", ""))]
    print(f"starting {shlex.join(command)} (log: {log})", flush=True)
    # A key of the user's own vLLM server would be asked of us, too.
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_API_KEY"} | {"VLLM_NO_USAGE_STATS": "1"}
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environment, start_new_session=True, preexec_fn=die_with_parent)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise UserError(f"vllm did not start; its log is {log}: {last_line(log)}")
            time.sleep(0.2)
        yield Server(f"http://127.0.0.1:{port}/v1", process, log)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its engine is a process of its own
        process.wait()


@dataclass(frozen=True)
class Served:
    models: Models
    servers: list[Server]
    version: str  # of vLLM, "" where the server does not say

    @property
    def environment(self) -> dict[str, str]:
        """What the command behind `--` finds."""
        urls = {"OPENAI_BASE_URL": self.servers[0].url, "TUNED_BASE_URL": self.servers[-1].url}
        return urls | {"BASE_MODEL": self.models.base_name, "TUNED_MODEL": self.models.tuned_name}

    def dead(self) -> Server | None:
        return next((server for server in self.servers if server.process.poll() is not None), None)


@contextlib.contextmanager
def served(run: Path) -> Iterator[Served]:
    """Base and tuned model of `run` while the block lasts."""
    vllm, models = program(), models_of(run)
    with contextlib.ExitStack() as stack:
        logs = [run / "vllm-base.log", run / "vllm-tuned.log"]
        servers = [stack.enter_context(server(vllm, arguments, log)) for arguments, log in zip(commands(models), logs, strict=False)]
        yield Served(models, servers, version(servers[0].url))


def version(url: str) -> str:
    try:
        with urllib.request.urlopen(url.removesuffix("/v1") + "/version", timeout=10) as reply:
            return str(json.load(reply)["version"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>; then `--` and the command")
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = parser.parse_args(sys.argv[1:cut]), sys.argv[cut + 1 :]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended on the way out
    with served(args.run) as here:
        for name, value in here.environment.items():
            print(f"{name}={value}", flush=True)
        if not command:
            with contextlib.suppress(KeyboardInterrupt):
                while not here.dead():
                    time.sleep(1)
                raise UserError(f"vllm ended; its log is {here.dead().log}: {last_line(here.dead().log)}")
            return
        child = subprocess.Popen(command, env=os.environ | here.environment, preexec_fn=die_with_parent)
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            signal.signal(signal.SIGINT, lambda *_: None)  # the child gets the same Ctrl-C and ends; its status counts
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        status = child.wait()
        if status and (dead := here.dead()):
            print(f"error: vllm ended in the middle (status {dead.process.returncode}); its log is {dead.log}: {last_line(dead.log)}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    entry(main)
