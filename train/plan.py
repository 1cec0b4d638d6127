"""Says before anything is downloaded what a run takes: parameters, memory a GPU, steps, time, disk; refuses what cannot fit.

    python -m train.plan llama3-8b                                             # on the GPUs of this machine
    python -m train.plan mistral-nemo --ablation full --gpu h200-141g:8 --scale zero3
    python -m train.plan qwen2.5-7b --gpu a100-80g:2 --pairs 5000              # --data data/paper/qwen2.5-7b once that is rendered

Time. FLOPs a token and parameter of a matrix: 2 forward, 2 backward through frozen weights (4 where they are trained), 2 more where
gradient checkpointing repeats the forward, and 2 for the reference. Divided by the GPUs' peak times one efficiency, which is
fitted on the three durations in Table 4 of arXiv 2501.05032 (2 x A100 80 GB, 10,884 pairs, 1 epoch), so it holds for the paper's
recipe and everything in it: 8-bit base, short padded batches, a garbage collection every micro-step. What it gives for them:

    Llama-3-8B 2 h 16 (paper 2 h 20, -3 %), Qwen2.5-7B 2 h 23 (2 h 15, +6 %), Mistral-Nemo-12B 3 h 27 (3 h 40, -6 %)

Unknown: other GPUs (scaled by their peak), a bf16 or 4-bit base, larger micro-batches, a step's own overhead. Attention's own FLOPs
(below 2 % at these lengths) are left out. On a CPU the time is that of the embedded model's steps, measured on two cores.

Memory. Weights as bitsandbytes keeps them, with embeddings, head and norms in bf16; adapter in fp32 with gradient and
optimiser states; logits as TRL 1.9 handles them; activations by the sizes of what a layer keeps; the CUDA context is an assumption.
None of it has been measured on a GPU yet, so a run is refused only above the whole memory, and warned of above 90 %.
"""

import argparse
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from datagen.files import UserError, entry, quiet_libraries, read_json
from train.recipe import compose, effective_batch

GB = 1e9
# Of the public config.json of each base: hidden, intermediate, layers, heads, key-value heads, width of a head, vocabulary, biases on q, k and v.
KNOWN = {
    "meta-llama/Meta-Llama-3-8B-Instruct": (4096, 14336, 32, 32, 8, 128, 128256, False),
    "Qwen/Qwen2.5-7B-Instruct": (3584, 18944, 28, 28, 4, 128, 152064, True),
    "mistralai/Mistral-Nemo-Instruct-2407": (5120, 14336, 40, 32, 8, 128, 131072, False),
}
# Memory in GB and dense bf16 peak in TFLOP/s of the vendor's data sheets (half of those given with sparsity), and the driver's name of it.
GPUS = {
    "a100-40g": (40, 312, r"A100.*40GB"),
    "a100-80g": (80, 312, r"A100.*80GB"),
    "h100-80g": (80, 989, r"H100 80GB HBM3"),
    "h100-pcie-80g": (80, 756, r"H100 PCIe"),
    "h200-141g": (141, 989, r"H200"),
    "b200-180g": (180, 2250, r"B200"),
    "l4-24g": (24, 121, r"L4\b"),
    "l40s-48g": (48, 362, r"L40S"),
    "a10g-24g": (24, 70, r"A10G"),
    "rtx4090-24g": (24, 165, r"RTX 4090"),
    "rtx3090-24g": (24, 71, r"RTX 3090"),
}
PAPER = {"llama3-8b": 140, "qwen2.5-7b": 135, "mistral-nemo": 220}  # minutes, Table 4
PAPER_PAIRS, VAL_SHARE, PAPER_PEAK, PAPER_GPUS = 10_884, 0.05, 312e12, 2
# Mean tokens of the 2,500 published rows in data/human-like-dpo-*.jsonl, with each base's tokenizer (for Qwen2.5 that of Qwen3, which has the
# same text vocabulary): prompt, chosen, rejected; then what the base's own template adds to a prompt, and to an answer.
LENGTHS = {"llama3-8b": (13.6, 178.6, 127.1, 10, 1), "qwen2.5-7b": (13.6, 178.4, 127.3, 29, 2), "mistral-nemo": (13.7, 184.4, 129.2, 3, 1)}
LONGEST = {"llama3-8b": 24 + 613, "qwen2.5-7b": 25 + 616, "mistral-nemo": 25 + 650}  # prompt and answer, of the same rows
EFFICIENCY = 0.0454  # of the bf16 peak: the one with the smallest largest relative error on PAPER
LOGIT_BYTES = 13.3  # at the peak, an element of the logits of chosen and rejected: measured on the functions of TRL 1.9 (docstring of `logits`)
CONTEXT = 1.5 * GB  # assumed: CUDA context, kernels, workspaces, and what the allocator cannot use
CPU_START, CPU_STEP = 30, 2.1  # seconds, of `make demo`: 77 s for 22 steps of 16 pairs, 47 of them in the trainer
EMBEDDED = 5_000_000  # parameters up to which that holds: at this size a step is overhead


@dataclass(frozen=True)
class Shape:
    """What the arithmetic needs of a base. `linear`: (in, out) of every linear layer but the head."""

    parameters: int
    linear: tuple[tuple[int, int], ...]
    hidden: int
    intermediate: int
    layers: int
    attention: int  # width of the queries
    keys: int  # width of the keys, and of the values
    vocabulary: int

    @property
    def quantised(self) -> int:
        return sum(i * o for i, o in self.linear)

    @property
    def computed(self) -> int:
        """Parameters that a token is multiplied with: the layers and the head, not the table of embeddings."""
        return self.quantised + self.hidden * self.vocabulary

    def adapter(self, rank: int) -> int:
        """LoRA on every linear layer: r (in + out) each (Hu et al. 2021, section 4.1)."""
        return sum(rank * (i + o) for i, o in self.linear)


@dataclass(frozen=True)
class Machine:
    """Where a run is to run. `memory` in bytes a GPU; `peak` in FLOP/s, or None where it is not known. A CPU has 0 GPUs."""

    name: str
    gpus: int
    memory: float | None
    peak: float | None


def llama_shape(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, head: int, vocabulary: int, bias: bool, tied: bool = False) -> Shape:
    """The family of Llama, Qwen2 and Mistral: four projections, three of the MLP, two norms a layer; one norm at the end."""
    attention, keys = heads * head, kv_heads * head
    layer = ((hidden, attention), (hidden, keys), (hidden, keys), (attention, hidden), (hidden, intermediate), (hidden, intermediate), (intermediate, hidden))
    extra = layers * (2 * hidden + (attention + 2 * keys if bias else 0)) + hidden + vocabulary * hidden * (1 if tied else 2)
    return Shape(layers * sum(i * o for i, o in layer) + extra, layer * layers, hidden, intermediate, layers, attention, keys, vocabulary)


def hub_cache() -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache/huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def local_folder(base_model: str) -> Path | None:
    """Where the base's config.json lies: a folder of that name, or the Hub's cache; None when it is not on this machine."""
    cached = sorted(hub_cache().glob(f"models--{base_model.replace('/', '--')}/snapshots/*/config.json"))
    return next((path.parent for path in [Path(base_model) / "config.json", *cached] if path.exists()), None)


def read_shape(base_model: str) -> Shape | None:
    """The shape of a base from its config.json where that is here, else from KNOWN; None for a base that is neither."""
    folder = local_folder(base_model)
    if folder is None:
        return llama_shape(*KNOWN[base_model]) if base_model in KNOWN else None
    c = read_json(folder / "config.json")
    if c.get("model_type") not in ("llama", "qwen2", "mistral"):
        return count_shape(folder)
    heads = c["num_attention_heads"]
    bias = c["model_type"] == "qwen2" or c.get("attention_bias", False)
    return llama_shape(
        c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], heads, c.get("num_key_value_heads") or heads,
        c.get("head_dim") or c["hidden_size"] // heads, c["vocab_size"], bias, c.get("tie_word_embeddings", False),
    )  # fmt: skip


def count_shape(folder: Path) -> Shape | None:
    """The same of any other architecture, counted on a model without weights (imports torch: seconds)."""
    quiet_libraries()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, ImportError, OSError):  # an architecture that this transformers does not have
        return None
    linear = tuple((m.in_features, m.out_features) for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name)
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    keys = (getattr(text, "num_key_value_heads", None) or text.num_attention_heads) * head
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return Shape(model.num_parameters(), linear, text.hidden_size, inner, text.num_hidden_layers, text.num_attention_heads * head, keys, text.vocab_size)


# ---------------------------------------------------------------- machine


def find_machine(named: str | None) -> Machine:
    """`a100-80g:2`, `cpu`, or None for the GPUs that nvidia-smi lists. Raises UserError for a name that is not in GPUS."""
    if named == "cpu":
        return Machine("cpu", 0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None)
    if named:
        name, _, count = named.partition(":")
        if name not in GPUS or not re.fullmatch(r"[1-9]\d*|", count):
            raise UserError(f"GPU={named}: known are {', '.join(GPUS)} (with :2 for two of them), and cpu")
        memory, peak, _ = GPUS[name]
        return Machine(name, int(count or 1), memory * GB, peak * 1e12)
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (FileNotFoundError, subprocess.TimeoutExpired):
        listed = ""
    rows = [(name, float(mib) * 2**20) for name, mib in re.findall(r"^(.+), (\d+)$", listed, re.MULTILINE)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = [device.strip() for device in visible.split(",")]
        rows = [row for number, row in enumerate(rows) if str(number) in chosen] if all(device.isdigit() for device in chosen) else rows[: len(chosen) if visible else 0]
    if not rows:
        return Machine("cpu", 0, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None)
    return Machine(rows[0][0], len(rows), min(memory for _, memory in rows), peak_of(rows[0][0]))


def peak_of(name: str) -> float | None:
    """Dense bf16 peak in FLOP/s of a GPU by the driver's name of it; None for one that is not in GPUS."""
    return next((peak * 1e12 for _, peak, pattern in GPUS.values() if re.search(pattern, name)), None)


# ---------------------------------------------------------------- memory


def sharded(config: dict, gpus: int) -> dict[str, int]:
    """Over how many GPUs weights, gradients and optimiser states are split: DeepSpeed's stages (Rajbhandari et al. 2020), FSDP2 as stage 3."""
    stage = 3 if config.get("fsdp_config") else 0
    if isinstance(path := config.get("deepspeed"), str):
        stage = read_json(Path(path))["zero_optimization"]["stage"]
    return {"weights": gpus if stage == 3 else 1, "gradients": gpus if stage >= 2 else 1, "states": gpus if stage >= 1 else 1}


def weights(shape: Shape, config: dict, cpu: bool) -> float:
    """Bytes of the base. 8 bits: a byte, and an fp32 scale a row; 4 bits: 0.5 + 0.127 / 8 (QLoRA, section 3).

    The rest (embeddings, head, norms) is in bf16: Axolotl raises it to fp32 while loading, and takes that back.
    """
    rest = (shape.parameters - shape.quantised) * 2
    if config.get("load_in_8bit"):
        return shape.quantised + sum(o for _, o in shape.linear) * 4 + rest
    if config.get("load_in_4bit"):
        return shape.quantised * (0.5 + 0.127 / 8) + rest
    return shape.parameters * (4 if cpu and not config.get("bf16") else 2)


def logits(shape: Shape, rows: int, length: int) -> float:
    """Bytes around the logits at their peak, for `rows` (twice the micro-batch) padded to `length`.

    TRL keeps the fp32 logits of policy and reference (4 + 4 bytes an element) while it takes log-probabilities, entropy and means from masked
    copies. Measured: 13.27 bytes, by torch's profiler on a CPU, through the same calls in the order of DPOTrainer._compute_loss, from a
    bf16 head and with its backward pass, which stays below; 4 rows of 300 tokens, 8,000 words.
    """
    return LOGIT_BYTES * rows * length * shape.vocabulary


def activations(shape: Shape, config: dict, tokens: int) -> float:
    """Bytes that the backward pass needs, in bf16 with an attention that keeps no matrix of scores.

    A layer keeps, a token: its input, two fp32 copies and the bf16 output of each norm (2 x 10 h), q, k, v before and after rotation, the output
    of attention, and gate, up, activation and product (8 i); LoRA with dropout adds a copy of the input of each of the seven projections.
    With checkpointing: the input of every layer, and one layer whole.
    """
    h, i, a, k = shape.hidden, shape.intermediate, shape.attention, shape.keys
    layer = 2 * h + 20 * h + 2 * (3 * a + 4 * k) + 8 * i
    if config.get("adapter") and config.get("lora_dropout"):
        layer += 3 * (5 * h + a + i)  # bf16, and a mask of a byte
    if config.get("gradient_checkpointing"):
        return tokens * (shape.layers * 2 * h + layer)
    return tokens * shape.layers * layer


def optimiser_bytes(name: str, item: int) -> int:
    """Bytes of states a parameter: AdamW keeps two, of a byte each or of the parameter's own size."""
    return 2 if "8bit" in name else 2 * item if "adam" in name else 0 if name == "sgd" else item


def state_bytes(config: dict, item: int) -> int:
    """Of the optimiser, a parameter. DeepSpeed keeps an fp32 copy of bf16 weights, and its states in fp32: 12 for Adam (Rajbhandari et al. 2020, section 3.1)."""
    name = str(config["optimizer"])
    return 4 + optimiser_bytes(name, 4) if config.get("deepspeed") and item == 2 else optimiser_bytes(name, item)


def memory(shape: Shape, config: dict, machine: Machine, longest: int) -> dict[str, float]:
    """Bytes a GPU, by what they are for, in a step of the longest rows."""
    cpu, split = not machine.gpus, sharded(config, max(1, machine.gpus))
    rows = 2 * config["micro_batch_size"]
    base = weights(shape, config, cpu) / split["weights"]
    if config.get("adapter"):
        trained, item = shape.adapter(config["lora_r"]), 4
        extra = trained * item / split["weights"]
    else:
        trained, item, extra = shape.parameters, 4 if cpu else 2, 0
        if config["rl"] in ("dpo", "ipo", "kto"):
            base *= 2  # without an adapter to switch off, the reference is a second copy
    states = state_bytes(config, item)
    gradients = item * (2 if machine.gpus > 1 and split["gradients"] == 1 else 1)  # DDP reduces them in buckets of its own
    label = "8 bits" if config.get("load_in_8bit") else "4 bits" if config.get("load_in_4bit") else "fp32" if cpu and not config.get("bf16") else "bf16"
    return {
        f"weights ({label})": base,
        "trained parameters, gradients, optimiser": extra + trained * (gradients / split["gradients"] + states / split["states"]),
        "activations": activations(shape, config, rows * longest),
        "logits": logits(shape, rows, longest),
        "CUDA context (assumed)": 0 if cpu else CONTEXT,
    }


# ---------------------------------------------------------------- time


def work(shape: Shape, config: dict, train_tokens: float, val_tokens: float) -> float:
    """FLOPs of a run: docstring of the module. `*_tokens` of prompt and answer, for both answers; evaluation is two forward passes."""
    reference = 2 if config["rl"] in ("dpo", "ipo", "kto") else 0
    per = 2 + (2 if config.get("adapter") else 4) + (2 if config.get("gradient_checkpointing") else 0) + reference
    evaluations = config.get("evals_per_epoch") or 0
    return shape.computed * config["num_epochs"] * (per * train_tokens + (2 + reference) * evaluations * val_tokens)


def seconds(shape: Shape, config: dict, machine: Machine, train_tokens: float, val_tokens: float, steps: int) -> float | None:
    if not machine.gpus:
        return CPU_START + CPU_STEP * steps if shape.parameters < EMBEDDED else None
    return work(shape, config, train_tokens, val_tokens) / (machine.gpus * machine.peak * EFFICIENCY) if machine.peak else None


def paper_errors() -> dict[str, float]:
    """Relative error of the time model on each row of the paper's Table 4."""
    recipe = {"rl": "dpo", "adapter": "lora", "gradient_checkpointing": True, "num_epochs": 1, "evals_per_epoch": 2}
    machine = Machine("a100-80g", PAPER_GPUS, 80 * GB, PAPER_PEAK)
    errors = {}
    for (base, minutes), name in zip(PAPER.items(), KNOWN, strict=True):
        stats = expected(base, PAPER_PAIRS)
        errors[base] = seconds(llama_shape(*KNOWN[name]), recipe, machine, stats["train_tokens"], stats["val_tokens"], 0) / 60 / minutes - 1
    return errors


# ---------------------------------------------------------------- data


def expected(base: str, pairs: int) -> dict:
    """What `stats.json` would say of `pairs` pairs like the published ones, for a base of the paper; others are counted as Llama 3."""
    prompt, chosen, rejected, around, end = LENGTHS.get(base, LENGTHS["llama3-8b"])
    val = round(pairs * VAL_SHARE)
    tokens = 2 * (prompt + around + end) + chosen + rejected
    longest = LONGEST.get(base, LONGEST["llama3-8b"]) + around + end
    return {"train": pairs - val, "val": val, "train_tokens": round((pairs - val) * tokens), "val_tokens": val * tokens, "longest": longest}


def measured(stats: dict) -> dict:
    """The same of a stats.json of datagen.format."""
    longest = stats["tokens"]["prompt"]["p100"] + max(stats["tokens"]["chosen"]["p100"], stats["tokens"]["rejected"]["p100"])
    return {key: stats[key] for key in ("train", "val", "train_tokens")} | {
        "val_tokens": stats["train_tokens"] * stats["val"] / max(1, stats["train"]),
        "longest": longest,
    }


# ---------------------------------------------------------------- disk


def disk(shape: Shape, config: dict) -> list[tuple[str, Path, float]]:
    """(what, where, bytes) that a run writes, at its fullest. Before the merged model there is a copy of the base that Axolotl leaves, no larger."""
    bf16 = shape.parameters * 2
    trained = shape.adapter(config["lora_r"]) if config.get("adapter") else shape.parameters
    item = 4 if config.get("adapter") else 2
    checkpoint = trained * (item + state_bytes(config, item))
    kept = config.get("save_total_limit") or 4  # Axolotl's own
    saves = min(kept, max(1, (config.get("saves_per_epoch") or 1) * config["num_epochs"]))
    here = local_folder(config["base_model"])
    there = here is not None and any(here.glob("*.safetensors"))
    out = Path("out")
    return [
        ("download of the base", hub_cache(), 0 if there else bf16),
        (f"{saves} checkpoint{'s' * (saves > 1)}, adapter" if config.get("adapter") else f"{saves} checkpoints, model", out, saves * checkpoint + trained * item),
        ("merged model", out, bf16 if config.get("adapter") else 0),
    ]


def existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def too_little_disk(parts: list[tuple[str, Path, float]]) -> str | None:
    """What to say where the disk is too small, summed over what lies on one file system."""
    needed: dict[int, tuple[Path, float]] = {}
    for _, path, size in parts:
        place = existing(path)
        device = place.stat().st_dev
        needed[device] = (needed.get(device, (place, 0))[0], needed.get(device, (place, 0))[1] + size)
    for place, size in needed.values():
        if size > (free := shutil.disk_usage(place).free):
            return f"{size / GB:.1f} GB are written, and {place} has {free / GB:.1f} GB free; free some, or set HF_HOME to a larger disk for the base"
    return None


# ---------------------------------------------------------------- the plan


def batch_line(config: dict, gpus: int) -> str:
    parts = f"micro {config['micro_batch_size']} x accumulation {config['gradient_accumulation_steps']} x {max(1, gpus)} {'GPU(s)' if gpus else 'CPU process'}"
    return f"effective batch {effective_batch(config, gpus)} = {parts}"


def steps_of(config: dict, stats: dict, gpus: int) -> int:
    return -(-stats["train"] // effective_batch(config, gpus)) * config["num_epochs"]


def duration(value: float | None, machine: Machine, config: dict) -> str:
    """`2 h 20 min (2 h 06 min to 2 h 35 min)`: the range is what the residuals of the fit allow, and only stands where the fit does."""
    if value is None:
        return f"not estimated: {f'the peak of {machine.name} is not in the table of train/plan.py' if machine.gpus else 'nothing of this size was measured on a CPU'}"

    def text(seconds: float) -> str:
        minutes = round(seconds / 60)
        return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{seconds / 60:.1f} min"

    if not machine.gpus:
        return f"{text(value)}, by the steps of the embedded model on two cores"
    if not (re.search("a100", machine.name, re.IGNORECASE) and config.get("load_in_8bit") and config.get("adapter")):
        return f"{text(value)}, if {EFFICIENCY:.1%} of the peak held as in the paper's runs (A100, 8-bit base): not measured"
    errors = paper_errors().values()
    return f"{text(value)} ({text(value / (1 + max(errors)))} to {text(value / (1 + min(errors)))}), at {EFFICIENCY:.1%} of the peak"


def describe(config: dict, stats: dict, gpus: int) -> list[str]:
    """The short form that `train.recipe` prints for a run on this machine: batch, steps and tokens; memory and time where the base is known."""
    counted = stats if "longest" in stats else measured(stats)
    steps = steps_of(config, counted, gpus)
    lines = [
        batch_line(config, gpus),
        f"{steps} steps for {stats['train']} pairs x {config['num_epochs']} epoch(s), {stats['train_tokens'] * config['num_epochs']:,} tokens with both answers",
    ]
    shape = read_shape(config["base_model"])
    if shape is None:
        return [*lines, f"no estimate of memory and time: the configuration of {config['base_model']} is not on this machine yet"]
    found = find_machine("cpu" if not gpus else None)
    machine = Machine(found.name if found.gpus or not gpus else "GPUs that are not here", gpus, found.memory, found.peak)
    total = sum(memory(shape, config, machine, counted["longest"]).values())
    trained = shape.adapter(config["lora_r"]) if config.get("adapter") else shape.parameters
    time = duration(seconds(shape, config, machine, counted["train_tokens"], counted["val_tokens"], steps), machine, config)
    return [
        *lines,
        f"{shape.parameters:,} parameters, {trained:,} trained; estimated memory {total / GB:.2f} GB{' a GPU' if gpus else ''}; estimated time {time}",
    ]


def table(shape: Shape, config: dict, stats: dict, machine: Machine) -> list[str]:
    """The long form, with memory by part and disk by place."""
    parts = memory(shape, config, machine, stats["longest"])
    without = activations(shape, config | {"gradient_checkpointing": not config.get("gradient_checkpointing")}, 2 * config["micro_batch_size"] * stats["longest"])
    trained = shape.adapter(config["lora_r"]) if config.get("adapter") else shape.parameters
    steps = steps_of(config, stats, machine.gpus)
    time = seconds(shape, config, machine, stats["train_tokens"], stats["val_tokens"], steps)
    rows = [
        ("parameters", f"{shape.parameters:,}, trained {trained:,} ({trained / shape.parameters:.2%})"),
        ("batch", batch_line(config, machine.gpus)),
        ("steps", f"{steps} for {stats['train']:,} pairs, {stats['train_tokens']:,} tokens"),
        ("time", duration(time, machine, config)),
        ("memory a GPU" if machine.gpus else "memory", f"{sum(parts.values()) / GB:.2f} GB" + (f" of {machine.memory / GB:.0f}" if machine.memory else "")),
    ]
    other = "without" if config.get("gradient_checkpointing") else "with"
    for name, size in parts.items():
        note = f"  ({other} gradient checkpointing {without / GB:.2f})" if name == "activations" else f"  (rows of {stats['longest']} tokens)" if name == "logits" else ""
        rows.append((f"  {name}", f"{size / GB:.2f} GB{note}"))
    for name, place, size in disk(shape, config):
        at = existing(place)
        rows.append((f"disk: {name}", f"{size / GB:.2f} GB in {place} ({shutil.disk_usage(at).free / GB:.0f} free)"))
    return [f"{name:<44} {value}" for name, value in rows]


def refuse(shape: Shape, config: dict, stats: dict, machine: Machine) -> None:
    """Raises UserError with what does not fit and what to change."""
    parts = memory(shape, config, machine, stats["longest"])
    total = sum(parts.values())
    if machine.memory and total > machine.memory:
        names = list(parts)
        largest = max(parts, key=parts.get)
        advice = {
            names[0]: "load_in_4bit with adapter: qlora" if config.get("adapter") else "SCALE=zero3 or fsdp2 on more GPUs, or LoRA",
            names[1]: "SCALE=zero3 or fsdp2 on more GPUs, an 8-bit optimizer, or LoRA",
            "activations": "micro_batch_size: 1" if config.get("gradient_checkpointing") else "gradient_checkpointing: true",
            "logits": "a smaller micro_batch_size" if config["micro_batch_size"] > 1 else "a shorter sequence_len, which format drops longer rows by",
        }
        raise UserError(
            f"{total / GB:.1f} GB a GPU do not fit {machine.name} with {machine.memory / GB:.0f} GB; most of it is {largest}, {parts[largest] / GB:.1f} GB: "
            f"try {advice.get(largest, 'a larger GPU')}, or a larger GPU"
        )
    if short := too_little_disk(disk(shape, config)):
        raise UserError(short)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--ablation")
    parser.add_argument("--scale", help="a file of axolotl/scale/: zero2, zero3, fsdp2")
    parser.add_argument("--gpu", help=f"{', '.join(GPUS)}, with :2 for two; cpu; default: what nvidia-smi lists")
    parser.add_argument("--pairs", type=int, default=PAPER_PAIRS, help="default: the paper's 10,884")
    parser.add_argument("--data", type=Path, help="folder with stats.json, where the pairs are rendered already")
    args = parser.parse_args()
    machine = find_machine(args.gpu)
    config = compose(args.base, args.ablation, args.data or Path("data"), args.base, machine.gpus, args.scale)
    stats = measured(read_json(args.data / "stats.json")) if args.data else expected(args.base, args.pairs)
    shape = read_shape(config["base_model"])
    if shape is None:
        raise UserError(f"the shape of {config['base_model']} is not known: put its config.json into a folder and name that as base_model, or download it first")
    source = args.data / "stats.json" if args.data else f"{args.pairs:,} pairs as long as the published ones"
    print(f"{args.base}{f' + {args.ablation}' if args.ablation else ''} on {machine.name}{f' x {machine.gpus}' if machine.gpus else ''}, {source}")
    print("\n".join(table(shape, config, stats, machine)))
    if machine.gpus and machine.peak:
        errors = ", ".join(f"{base} {error:+.0%}" for base, error in paper_errors().items())
        print(f"\nThe efficiency is fitted on the paper's three durations (8-bit base, 2 x A100; errors: {errors}); other recipes and GPUs are unmeasured.")
    refuse(shape, config, stats, machine)
    if machine.memory and sum(memory(shape, config, machine, stats["longest"]).values()) > 0.9 * machine.memory:
        print("warning: above 90 % of the memory; the estimate is not that exact")


if __name__ == "__main__":
    entry(main)
