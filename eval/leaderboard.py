"""Evaluates base and tuned model on the Open LLM Leaderboard v2 through lm-eval, and compares them.

    python -m eval.leaderboard out/tiny --items out/items                # small items of our own: a check of the machinery
    python -m eval.leaderboard out/llama3-8b                             # the leaderboard's own data sets, adapter on base
    python -m eval.leaderboard out/llama3-8b --tasks leaderboard_ifeval --limit 50

The tasks are lm-eval's own, untouched, with the leaderboard's flags: chat template, few-shot examples as turns, its seeds. The base is
evaluated once for equal settings, in out/leaderboard/<base>/, each run in out/<run>/leaderboard/. A folder there is named by the hash of everything that
could change a number; it holds settings.json, lm-eval.yaml (enough for `lm-eval run --config`), the log, lm-eval's results and samples, items.jsonl, and
`done`, written last. What was answered is kept in a cache of its own for each model and its arguments, so a broken-off evaluation goes on.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import yaml

from datagen.config import read_yaml
from datagen.files import UserError, canonical, entry, sha256, write_json, write_text
from eval import compare, scores
from tiny.serve import die_with_parent
from train.launch import end
from train.merge import check_base, file_sha256, merged_folder, trained_hash
from train.recipe import base_of, gpu_count

PYTHON = Path(".venv-eval/bin/python")
PLACE = Path("out/leaderboard")
SEEDS = [0, 1234, 1234, 1234]  # python, numpy, torch, few-shot: those of the leaderboard
PACKAGES = ("lm_eval", "transformers", "tokenizers", "torch", "datasets", "peft", "math-verify", "antlr4-python3-runtime", "sympy", "langdetect", "nltk", "vllm")
PROGRESS = re.compile(r"Running (\w+) requests:\s+\d+%.*?\| (\d+)/(\d+) \[[\d:]+<([\d:?]+)")
CACHED = re.compile(r"Cached requests: (\d+), Requests remaining: (\d+)")
WORK = {"loglikelihood": "multiple choice", "generate_until": "written answers"}
EVERY = 20  # seconds between two lines of progress


# ---------------------------------------------------------------- settings


def versions() -> dict[str, str | None]:
    """Versions in .venv-eval, without importing anything there."""
    if not PYTHON.exists():
        raise UserError(f"{PYTHON} is not there; `make eval` makes this environment from requirements-eval.txt")
    code = (
        "import importlib.metadata as m, json, sys\n"
        "def v(name):\n try: return m.version(name)\n except m.PackageNotFoundError: return None\n"
        "print(json.dumps({'python': sys.version.split()[0]} | {name: v(name) for name in sys.argv[1:]}))"
    )
    return json.loads(subprocess.run([PYTHON, "-c", code, *PACKAGES], capture_output=True, text=True, check=True).stdout)


def folder_hash(folder: Path) -> str:
    return sha256(canonical({str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}))[:16]


def common(args: argparse.Namespace, gpus: int, found: dict) -> dict:
    """What is equal for base and tuned model, and has to be."""
    items = None
    if args.items:
        if not args.items.is_dir():
            raise UserError(f"{args.items}: there is no such folder; ITEMS names one that holds <org>/<name>/ with the files of those data sets")
        items = {"folder": str(args.items), "hash": folder_hash(args.items)}
    return {
        "backend": args.backend,
        "tasks": args.tasks,
        "limit": args.limit,
        "items": items,
        "gen_kwargs": {"max_gen_toks": args.max_gen_toks} if args.max_gen_toks else {},
        "batch_size": args.batch_size or ("auto" if gpus or args.backend != "hf" else 4),
        "dtype": "bfloat16" if gpus else "float32",  # bf16 is emulated, and a hundred times slower, on most CPUs
        "gpus": gpus,
        "seed": SEEDS,
        "apply_chat_template": True,
        "fewshot_as_multiturn": True,
        "versions": found,
    }


def of_model(shared: dict, args: argparse.Namespace, config: dict, base: dict, tuned: bool) -> dict:
    """The settings of one model: `shared`, what it is, and lm-eval's arguments. `base`: what train.merge.check_base knows of it."""
    name, revision = config["base_model"], {"revision": base["revision"]} if base["revision"] else {}
    identity = {"base_model": name, "base_weights": base["weights_sha256"][:16], "tuned_weights": trained_hash(args.run)[:16] if tuned else None}
    if args.backend == "endpoint":
        model = args.tuned_model if tuned else args.base_model
        url = (tuned and os.environ.get("TUNED_BASE_URL")) or os.environ.get("OPENAI_BASE_URL")
        if not url or "auto" in (args.base_model, args.tuned_model):
            raise UserError("BACKEND=endpoint needs OPENAI_BASE_URL (and TUNED_BASE_URL, if the tuned model is served elsewhere), BASE_MODEL= and TUNED_MODEL=")
        arguments = {"model": model, "tokenizer": name, "base_url": f"{url.rstrip('/')}/completions", "num_concurrent": 8, "max_length": 8192}
        return shared | {"model": "local-completions", "model_args": arguments, "identity": identity}
    # The adapter on its base takes the base's tokenizer and template; a merged model carries the base's own, byte for byte.
    product = merged_folder(args.run) if args.what == "merged" else args.run / "adapter"
    lora = tuned and (product / "adapter_config.json").exists()
    arguments = {"dtype": shared["dtype"]} | ({"pretrained": str(product)} if tuned and not lora else {"pretrained": name, **revision})
    if args.backend == "vllm":
        arguments |= {"max_model_len": 8192, "gpu_memory_utilization": 0.9, "enable_thinking": False}
        arguments |= {"lora_local_path": str(product), "max_lora_rank": max(8, config.get("lora_r", 8))} if lora else {}
    elif lora:
        arguments["peft"] = str(product)
    return shared | {"model": args.backend, "model_args": arguments, "identity": identity}


def place(settings: dict, under: Path) -> tuple[Path, Path]:
    """(folder of the results, path of the cache). An answer depends on the model, its arguments and the versions, not on which tasks were asked for, nor on how
    many GPUs shared the work, nor on where this checkout lies."""
    key = settings | {"items": settings["items"] and settings["items"]["hash"], "gpus": None}
    of_cache = {k: key[k] for k in ("model", "model_args", "identity", "versions", "batch_size")}
    return under / sha256(canonical(key))[:12], under / "cache" / sha256(canonical(of_cache))[:12]


# ---------------------------------------------------------------- running


def command_of(folder: Path, settings: dict) -> list[str]:
    start = ["-m", "eval.harness", str((folder / "lm-eval.yaml").resolve())]
    if settings["backend"] == "hf" and settings["gpus"] > 1:
        start = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(settings["gpus"]), *start]
    return [str(PYTHON.absolute()), *start]


def lm_eval_yaml(folder: Path, cache: Path, settings: dict) -> dict:
    keys = ("model", "model_args", "tasks", "batch_size", "seed", "apply_chat_template", "fewshot_as_multiturn")
    whole = {k: str(Path(v).resolve()) if isinstance(v, str) and Path(v).is_dir() else v for k, v in settings["model_args"].items()}  # it works in another folder
    if settings["backend"] == "vllm" and settings["gpus"] > 1:
        whole["data_parallel_size"] = settings["gpus"]
    config = {k: settings[k] for k in keys} | {"model_args": whole} | {k: settings[k] for k in ("limit", "gen_kwargs") if settings[k]}
    config |= {"device": "cuda" if settings["gpus"] else "cpu"} if settings["backend"] == "hf" else {}
    if any(task != "leaderboard" and not task.startswith("leaderboard_") for task in settings["tasks"]):
        config["include_path"] = str(Path("eval/guards").resolve())
    return config | {"log_samples": True, "use_cache": str(cache.resolve()), "output_path": str((folder / "results.json").resolve())}


def environment_of(settings: dict) -> dict[str, str]:
    environment = {"NLTK_DATA": str(Path(".venv-eval/nltk_data").resolve()), "PYTHONPATH": str(Path.cwd()), "PYTHONUNBUFFERED": "1"}
    if settings["items"]:
        # Their prepared form must not lie among that of the real data sets, and none of them is looked up on the Hub.
        environment["HF_DATASETS_CACHE"] = str((PLACE / "datasets" / settings["items"]["hash"]).resolve())
        if all((Path(settings["items"]["folder"]) / name).is_dir() for name in compare.DATA_SETS):
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    if not settings["gpus"]:
        environment["CUDA_VISIBLE_DEVICES"] = ""
        # Each batch of logits is hundreds of MB, which glibc would hand back to the kernel and fetch again: a fifth of the time on a CPU.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "4000000000", "MALLOC_TRIM_THRESHOLD_": "8000000000"}
    return os.environ | environment


def follow(process: subprocess.Popen, log, who: str) -> str:
    """Writes all that lm-eval says to `log` and shows, now and then, how far it is. Returns the last line that names an error."""
    shown, text, last = 0.0, "", ""
    while piece := os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace"):
        log.write(piece)
        *lines, text = re.split(r"[\r\n]", text + piece)
        for line in lines:
            if match := CACHED.search(line):
                print(f"  {who}: {int(match[1]):,} requests answered before, {int(match[2]):,} to go", flush=True)
            elif (match := PROGRESS.search(line)) and time.monotonic() - shown > EVERY and "?" not in match[4]:
                shown = time.monotonic()
                print(f"  {who}: {WORK.get(match[1], match[1])} {int(match[2]):,} of {int(match[3]):,}, {match[4]} left", flush=True)
            elif re.match(r"(\w+\.)*\w*(Error|Exception|Killed)\b", line.strip()):
                last = line.strip()
    return last


def evaluate(settings: dict, folder: Path, cache: Path, who: str) -> None:
    """Runs lm-eval to its end, unless that was done for equal settings. Raises UserError; what was answered until then is in the cache."""
    if (folder / "done").exists():
        print(f"  {who}: evaluated before with equal settings, {folder}")
        return
    for path in [*folder.glob("samples_*"), *folder.glob("results_*")]:
        path.unlink()  # of an evaluation that was broken off while it wrote them
    write_text(folder / "lm-eval.yaml", yaml.safe_dump(lm_eval_yaml(folder, cache, settings), sort_keys=False))
    cache.parent.mkdir(parents=True, exist_ok=True)
    PLACE.mkdir(parents=True, exist_ok=True)
    where, started, log = settings["items"]["folder"] if settings["items"] else PLACE, time.time(), folder / "lm-eval.log"
    print(f"  {who}: lm-eval run --config {folder / 'lm-eval.yaml'} (log: {log})", flush=True)
    process = subprocess.Popen(
        command_of(folder, settings), cwd=where, env=environment_of(settings), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    try:
        with open(log, "w", encoding="utf-8", buffering=1) as out:
            last = follow(process, out, who)
        status = process.wait()
    except BaseException:
        end(process)
        raise
    if status:
        raise UserError(f"lm-eval ended with status {status} on the {who} model; its log is {log}" + (f": {last[:300]}" if last else ""))
    rows = scores.distil(folder)
    write_json(folder / "done", {"seconds": round(time.time() - started, 1), "items": len(rows)})
    print(f"  {who}: {len(rows):,} items in {time.time() - started:.0f} s")


def preflight(settings: list[tuple[dict, Path]]) -> None:
    for wanted, folder in settings:
        write_json(folder / "settings.json", wanted)
    command = [PYTHON, "-m", "eval.preflight", *(str(folder / "settings.json") for _, folder in settings)]
    done = subprocess.run(command, env=environment_of(settings[0][0]), stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        if not lines or not lines[-1].startswith("error: "):
            sys.stderr.write(done.stderr)
        raise UserError(lines[-1].removeprefix("error: ") if lines else f"the preflight ended with status {done.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--backend", choices=["hf", "vllm", "endpoint"], default="hf")
    parser.add_argument("--what", choices=["adapter", "merged"], default="adapter", help="adapter on the base, or the merged model")
    parser.add_argument("--tasks", type=lambda text: re.split(r"[\s,]+", text.strip()), default=["leaderboard"], help="lm-eval's names, or YAML files")
    parser.add_argument("--limit", type=int, help="items of each task, for a cheap look")
    parser.add_argument("--items", type=Path, help="folder with <org>/<name>/ data sets that take the place of those on the Hub")
    parser.add_argument("--max-gen-toks", type=int, help="for a model that does not stop by itself; changes the tasks, so only for checks of the machinery")
    parser.add_argument("--batch-size", help="default: auto on GPUs, 4 on a CPU")
    parser.add_argument("--gpus", type=int, help="default: as many as there are")
    parser.add_argument("--base-model", default="auto", help="for --backend endpoint: the name at OPENAI_BASE_URL")
    parser.add_argument("--tuned-model", default="auto", help="for --backend endpoint: the name at TUNED_BASE_URL or OPENAI_BASE_URL")
    args = parser.parse_args()
    args.tasks = [str(Path(task).resolve()) if task.endswith((".yaml", ".yml")) else task for task in args.tasks]
    config = read_yaml(args.run / "run.yaml", "the configuration of a finished run, from `make train`")
    shared = common(args, gpu_count() if args.gpus is None else args.gpus, versions())
    identity = check_base(args.run, config, download=args.backend != "endpoint")[1]
    base, tuned = (of_model(shared, args, config, identity, who) for who in (False, True))
    (base_folder, base_cache), (tuned_folder, tuned_cache) = place(base, PLACE / base_of(args.run.resolve().name)), place(tuned, args.run / "leaderboard")
    missing = [(settings, folder) for settings, folder in ((base, base_folder), (tuned, tuned_folder)) if not (folder / "done").exists()]
    if missing:
        preflight(missing)
    evaluate(base, base_folder, base_cache, "base")
    evaluate(tuned, tuned_folder, tuned_cache, "tuned")
    compare.write(args.run, base_folder, tuned_folder)


if __name__ == "__main__":
    entry(main)
