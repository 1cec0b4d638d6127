"""Measures LoRA-DPO: pairs/s, tokens/s, MFU and peak memory of the paper's recipe and of `fast`, for a model of a real shape with random weights.

    python -m benchmarks.train --shape llama3-8b          # one GPU of 80 GB or more, 50 GB of disk; also qwen2.5-7b, mistral-nemo
    python -m benchmarks.train                            # --shape tiny: the embedded model's shape, on two CPU cores, about 15 minutes
    python -m benchmarks.train --only collect reference   # and these parts of `fast`, each alone upon the paper's recipe
    python -m benchmarks.train --lengths my.jsonl         # rows with prompt, chosen, rejected: their lengths instead of the built-in ones

Every run is Axolotl's: a run.yaml as train.recipe composes it, `accelerate launch -m axolotl.cli.train`, and the times at which its log tells
a step, after the first WARM. Recipes take turns on one device, and see the same pairs in the same order. Then both train the embedded model on the
rendered pairs of data/tiny/tiny (`make format MODEL=tiny`), and their held-out losses are printed. On a CPU 8 bits, bf16 and flash attention are
left out of both recipes (they are emulated there, or missing): what is measured is the rest.

MFU = FLOPs of useful work a second / the device's dense bf16 peak. Useful are, for each token of prompt + chosen and prompt + rejected and each
weight that is multiplied (all but input embeddings), 2 FLOPs forward and 2 backward through frozen weights, and 2 for the reference where the
recipe computes it in the step. Not useful: padding, recomputation by checkpointing. Not counted: attention scores, the adapter's own weights.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml

from datagen.files import UserError, entry, read_json, read_jsonl, write_jsonl, write_text
from train import recipe
from train.launch import STEP
from train.plan import KNOWN, peak_of

SPAWN = multiprocessing.get_context("spawn")
WARM = {True: 3, False: 1}  # steps before the clock starts, on a GPU (the second one measures memory in `fast`) and on a CPU
BATCH = 32  # the paper's effective batch, on the one device of this benchmark
# `tiny` on a CPU: half the batch, and a third of the lengths (126 tokens a pair, where its own data has 136); with the real ones a step takes a minute.
TINY_BATCH, TINY_LENGTHS = 16, 3
ROPE = {"rope_type": "default", "rope_theta": 1000000.0}
# What a base's config.json says besides the dimensions, which are in train.plan.KNOWN.
SHAPES = {
    "llama3-8b": {"model_type": "llama", "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}},
    "qwen2.5-7b": {"model_type": "qwen2", "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_parameters": ROPE},
    "mistral-nemo": {"model_type": "mistral", "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_parameters": ROPE, "sliding_window": None},
}

# Tokens of prompt (with Llama 3's template), chosen and rejected (with the end of turn): 64 of the 972 rows of human-like-dpo-casual.jsonl, at even
# quantiles of a pair's length; counted with cl100k_base, which is 100,000 of the 128,000 tokens of Llama 3 (arXiv 2407.21783, section 3.2).
# A pair has 377 tokens here with the prompt twice, 378 over all rows.
LENGTHS = """
18 85 62  19 96 63  20 82 87  29 86 71  18 110 76  23 100 81  22 93 97  18 109 96  22 122 79  23 136 68  20 123 92  22 124 91  26 105 107  23 139 85
25 111 112  24 145 85  31 109 111  21 140 104  21 150 99  29 150 86  22 155 98  26 146 102  22 168 91  20 185 84  22 151 118  20 191 86  25 126 146
20 179 106  31 116 152  27 122 161  22 201 96  21 206 98  19 147 166  29 201 98  21 206 113  24 223 94  21 231 97  22 204 126  22 238 98  21 262 82
23 250 95  27 227 114  22 236 124  20 257 112  21 260 115  21 304 79  23 288 97  22 248 148  25 193 203  26 260 140  30 196 206  27 262 155  25 220 212
20 235 219  24 240 213  25 217 242  28 262 206  22 255 238  22 319 202  29 326 210  25 334 243  25 302 324  30 445 262  29 427 485
"""
CHARACTERS = 4.71  # a token, in that file under that vocabulary; what --lengths divides by

# Parts of `fast`, each alone upon the paper's recipe. The classes contain Quiet: read their figures beside that of `collect`.
PARTS = {
    "bf16": {"load_in_8bit": False},
    "checkpointing": {"gradient_checkpointing": False},
    "batch": {"micro_batch_size": 16},
    "collect": {"trainer_cls": "train.fast.Quiet"},
    "reference": {"trainer_cls": "train.fast.Cached", "precompute_ref_log_probs": True},
    "logits": {"trainer_cls": "train.fast.Logits"},
    "packed": {"trainer_cls": "train.fast.Packed"},
}
ON_CPU = {"load_in_8bit": False, "bf16": False, "attn_implementation": "sdpa"}


def lengths_of(path: Path | None) -> list[tuple[int, int, int]]:
    """(prompt, chosen, rejected) in tokens: the built-in ones, or a file's characters / CHARACTERS, since a random model has no tokenizer of its own."""
    if path is None:
        numbers = [int(n) for n in LENGTHS.split()]
        return list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
    rows = read_jsonl(path, "pairs with prompt, chosen and rejected")
    try:
        found = [tuple(max(1, round(len(row[key]) / CHARACTERS)) for key in ("prompt", "chosen", "rejected")) for row in rows]
    except (KeyError, TypeError):
        raise UserError(f"{path}: every row needs prompt, chosen and rejected as strings") from None
    if not found:
        raise UserError(f"{path}: holds no rows")
    return found


def tokens_of(lengths: list[tuple[int, int, int]]) -> float:
    """Mean tokens of a pair, with the prompt before either answer."""
    return sum(2 * prompt + chosen + rejected for prompt, chosen, rejected in lengths) / len(lengths)


def make_pairs(lengths: list[tuple[int, int, int]], count: int, words: int, path: Path) -> None:
    """Pairs of random words of a vocabulary in which a word is a token; shuffled whole rounds of the lengths."""
    draw, rows = random.Random(42), []
    while len(rows) < count:
        for sizes in draw.sample(lengths, len(lengths)):
            prompt, chosen, rejected = ([f"w{draw.randrange(words)}" for _ in range(size)] for size in sizes)
            rows.append({"prompt": " ".join(prompt), "chosen": " " + " ".join([*chosen[1:], "</s>"]), "rejected": " " + " ".join([*rejected[1:], "</s>"])})
    write_jsonl(path, rows[:count])


def config_of(shape: str) -> dict:
    """What the config.json of a shape says."""
    if shape == "tiny":
        return read_json(Path("tiny/model/config.json"))
    hidden, intermediate, layers, heads, kv_heads, head, vocabulary, _ = KNOWN[recipe.compose(shape, None, Path("unused"), "unused", 1)["base_model"]]
    values = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads, "vocab_size": vocabulary}
    return values | {"num_key_value_heads": kv_heads, "head_dim": head} | SHAPES[shape]


def make_model(shape: str, folder: str, out) -> None:
    """Random weights of a shape, and a tokenizer in which a word is a token. Sends (multiplied weights, words)."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    gpu = torch.cuda.is_available()
    values = config_of(shape) | {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(**values)
    torch.manual_seed(42)
    with torch.device("cuda" if gpu else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if shape != "tiny" else torch.float32)
    model.save_pretrained(folder)
    words = config.vocab_size - 4
    vocabulary = {"<s>": 0, "</s>": 1, "<pad>": 2, "<unk>": 3} | {f"w{i}": i + 4 for i in range(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    tied = model.config.tie_word_embeddings
    out.send((model.num_parameters() - (0 if tied else model.get_input_embeddings().weight.numel()), words))


@dataclass
class Measured:
    """What the log of one run says. Seconds of a step are means after the first WARM; `before` are those spent on the reference before the first step."""

    step: float
    memory: float  # GB
    before: float
    losses: list[float]
    held_out: float | None


def read_line(line: str) -> dict | None:
    match = STEP.search(line)
    return {key: float(value) for key, value in re.findall(r"'([\w/]+)': '?([-+.\w]+)'?", match[0])} if match else None


class Memory(threading.Thread):
    """Largest memory of a process group: on the GPU as nvidia-smi tells (with what the allocator keeps), else the largest process's resident set."""

    def __init__(self, group: int, gpu: bool):
        super().__init__(daemon=True)
        self.group, self.gpu, self.peak, self.over = group, gpu, 0.0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.3):
            if self.gpu:
                told = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True, text=True)
                found = [float(n) * 2**20 / 1e9 for n in told.stdout.split()]
            else:
                found = [n for path in Path("/proc").glob("[0-9]*") if (n := resident(path, self.group))]
            self.peak = max([self.peak, *found])


def resident(process: Path, group: int) -> float:
    try:
        if int((process / "stat").read_text().rsplit(")", 1)[1].split()[2]) != group:
            return 0.0
        return int(re.search(r"VmHWM:\s+(\d+)", (process / "status").read_text())[1]) * 1024 / 1e9
    except (OSError, TypeError):
        return 0.0


def train(config: dict, folder: Path, gpu: bool, steps: int | None) -> Measured:
    """One run of Axolotl. With `steps`, it is ended after so many: what follows (saving the base, 16 GB) is not part of the question."""
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "run.yaml", yaml.safe_dump(config | {"output_dir": str(folder / "adapter"), "dataset_prepared_path": str(folder / "prepared")}, sort_keys=False))
    where = ["--num_processes", "1"] + ([] if gpu else ["--cpu"])
    command = [sys.executable, "-m", "accelerate.commands.launch", *where, "-m", "axolotl.cli.train", str(folder / "run.yaml")]
    quiet = {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "GOMP_SPINCOUNT": "30000",
        "PYTHONUNBUFFERED": "1",
    }
    quiet |= {} if gpu else {"CUDA_VISIBLE_DEVICES": "", "TORCHAO_FORCE_SKIP_LOADING_SO_FILES": "1"}
    environment = os.environ | quiet | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace", env=environment
    )
    memory = Memory(process.pid, gpu)
    memory.start()
    times, losses, held_out, before = [], [], None, 0.0
    try:
        with open(folder / "train.log", "w", encoding="utf-8", buffering=1) as log:
            for line in process.stdout:
                log.write(line)
                if told := re.search(r"computed in ([\d.]+) s", line):
                    before += float(told[1])
                values = read_line(line) or {}
                held_out = values.get("eval_loss", held_out)
                if "loss" in values:
                    times.append(time.perf_counter())
                    losses.append(values["loss"])
                    if len(times) == steps:
                        break
        if steps is None:
            process.wait()
    finally:
        memory.over.set()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    warm = WARM[gpu]
    if len(times) <= warm or (steps and len(times) < steps):
        raise UserError(f"{folder / 'run.yaml'}: Axolotl ended after {len(times)} steps; its log: {keep(folder)}")
    return Measured((times[-1] - times[warm - 1]) / (len(times) - warm), memory.peak, before, losses, held_out)


def keep(folder: Path) -> Path:
    """A failed run's log, moved to where it outlives the benchmark's own folder."""
    kept = Path(tempfile.gettempdir()) / f"benchmark-{folder.name}-{os.getpid()}.log"
    shutil.copy(folder / "train.log", kept)
    return kept


def recipes(base: str, only: list[str], gpu: bool, batch: int) -> dict[str, dict]:
    """Complete configurations by name, as train.recipe composes them for one GPU, with the same batch in all."""
    paper, fast = (recipe.compose(base, ablation, Path("unused"), "unused", 1) for ablation in (None, "fast"))
    found = {"paper": paper, "fast": fast} | {name: paper | PARTS[name] for name in only}
    return {name: config | {"gradient_accumulation_steps": batch // config["micro_batch_size"]} | ({} if gpu else ON_CPU) for name, config in found.items()}


def device() -> tuple[str, float | None, bool]:
    """(name, peak FLOP/s where known, whether it is a GPU)."""
    if not recipe.gpu_count():
        return f"CPU, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before", None, False
    name = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True).stdout.splitlines()[0]
    return name, peak_of(name), True


def spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f}" + (f" [{min(values):.{digits}f}, {max(values):.{digits}f}]" if len(values) > 1 else "")


def useful(weights: int, tokens: float, cached: bool) -> float:
    """FLOPs of useful work on a pair."""
    return (4 if cached else 6) * weights * tokens


def speed(args: argparse.Namespace, peak: float | None, gpu: bool, place: Path) -> None:
    lengths = lengths_of(args.lengths)
    batch = BATCH
    if args.shape == "tiny":
        batch, lengths = TINY_BATCH, [tuple(max(2, n // TINY_LENGTHS) for n in sizes) for sizes in lengths]
    tokens, steps = tokens_of(lengths), WARM[gpu] + args.steps
    here, there = SPAWN.Pipe()
    maker = SPAWN.Process(target=make_model, args=(args.shape, str(place / "model"), there))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise UserError(f"the model of shape {args.shape} could not be made (status {maker.exitcode}); see above")
    weights, words = here.recv()
    make_pairs(lengths, steps * batch, words, place / "train.jsonl")
    print(f"{args.shape}: {weights:,} weights multiplied; {tokens:.0f} tokens a pair; {args.steps} steps of {batch} pairs a run, {args.repeats} run(s) each\n")

    runs: dict[str, list[Measured]] = {}
    for _ in range(args.repeats):
        for name, config in recipes("llama3-8b" if args.shape == "tiny" else args.shape, args.only, gpu, batch).items():
            config = {key: value for key, value in config.items() if key not in ("test_datasets", "evals_per_epoch", "saves_per_epoch")}
            config["datasets"][0]["path"] = str(place / "train.jsonl")
            config |= {"base_model": str(place / "model"), "special_tokens": {"pad_token": "<pad>"}, "max_steps": steps, "save_strategy": "no"}
            config |= {"val_set_size": 0} | ({"attn_implementation": args.attention} if args.attention else {})
            shutil.rmtree(place / "out/reference", ignore_errors=True)
            runs.setdefault(name, []).append(train(config, place / "out" / name, gpu, steps))
            print(f"  {name:<14} {runs[name][-1].step:.2f} s a step", flush=True)

    print(f"\n{'recipe':<14} {'pairs/s':<22} {'x paper':<20} {'tokens/s':>9} {'MFU':>6} {'peak GB':>8}  reference before the first step")
    for name, measured in runs.items():
        rates = [batch / run.step for run in measured]
        ratios = [theirs.step / ours.step for ours, theirs in zip(measured, runs["paper"], strict=True)]
        cached = measured[0].before > 0
        share = f"{100 * useful(weights, tokens, cached) * median(rates) / peak:.1f} %" if peak else "-"
        once = ""
        if cached:
            whole = [1 / (run.step / batch + run.before / (steps * batch)) for run in measured]
            once = f"{1000 * median(run.before for run in measured) / (steps * batch):.1f} ms a pair, once; with it {spread(whole)} pairs/s"
        memory = max(run.memory for run in measured)
        print(f"{name:<14} {spread(rates):<22} {spread(ratios):<20} {median(rates) * tokens:>9,.0f} {share:>6} {memory:>8.2f}  {once}")
    print("" if peak else "no MFU: " + ("the peak of this GPU is not in the table of train/plan.py" if gpu else "a CPU has no peak worth the name"))


def task(args: argparse.Namespace, gpu: bool, place: Path) -> None:
    data = Path("data/tiny/tiny")
    if not (data / "stats.json").exists():
        raise UserError(f"{data}: no rendered pairs for the loss; run `make format MODEL=tiny` (or --no-task)")
    small = {"micro_batch_size": 2, "gradient_accumulation_steps": 8, "gradient_checkpointing": True}  # the paper's, at this model's batch of 16
    print("\nequal loss: the embedded model on its own pairs, one epoch\n")
    for name, more in (("paper", small), ("fast", {})):
        config = recipe.compose("tiny", None if name == "paper" else "fast", data, "unused", 0) | more
        run = train(config, place / "out" / f"task-{name}", gpu, None)
        quarter = len(run.losses) // 4
        parts = [sum(run.losses[i * quarter : (i + 1) * quarter]) / quarter for i in range(4)]
        print(f"  {name:<6} held-out loss {run.held_out:.4f}; training loss by quarters of the epoch " + ", ".join(f"{part:.3f}" for part in parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(["tiny", *SHAPES]), default="tiny")
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--only", nargs="*", choices=sorted(PARTS), default=[], help="parts of `fast` to measure alone")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed in a run")
    parser.add_argument("--repeats", type=int, help="default: 3 for tiny, 1 else")
    parser.add_argument("--attention", help="attn_implementation for all, such as sdpa where flash-attn is not installed")
    parser.add_argument("--no-task", action="store_true", help="without the comparison of losses")
    args = parser.parse_args()
    args.repeats = args.repeats or (3 if args.shape == "tiny" else 1)
    name, peak, gpu = device()
    if not gpu and args.shape != "tiny":
        raise UserError(f"--shape {args.shape} needs a GPU, and nvidia-smi lists none; --shape tiny runs on a CPU")
    print(f"Python {sys.version.split()[0]}, {name}")
    with tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        speed(args, peak, gpu, Path(folder))
        if not args.no_task:
            task(args, gpu, Path(folder))


if __name__ == "__main__":
    entry(main)
