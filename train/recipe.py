"""Composes a base's YAML, an optional ablation and the data into `out/<run>/run.yaml`: the whole run in one file, and its manifest.

    python -m train.recipe llama3-8b --data data/paper/llama3-8b --run llama3-8b
    python -m train.recipe llama3-8b --ablation lora-r64 --data data/paper/llama3-8b --run llama3-8b+lora-r64

Refuses keys that Axolotl's schema does not know (Axolotl itself ignores them). Rewrites run.yaml only when its text changes, so
`make` retrains after a change of a value or of the data, and not after a touch. Prints effective batch, steps, tokens, and an estimate.
"""

import argparse
import copy
import os
import re
import subprocess
from pathlib import Path

import yaml

from datagen.config import nearest, read_yaml
from datagen.files import UserError, entry, quiet_libraries, read_json, sha256, write_text

BASES = Path("axolotl")
REFERENCE_GPUS = 2  # the paper trained on two; on n GPUs the accumulation changes so that the effective batch stays, and the micro-batch where it must
WITHOUT_TYPE = ("orpo", "kto")
DATA_KEYS = ("datasets", "test_datasets", "dataset_prepared_path", "output_dir")
HEADER = """\
# {run}: written by train.recipe from {sources}. Complete: `accelerate launch -m axolotl.cli.train` needs nothing else.
# data: {rows} rows, train.jsonl sha256 {train}, val.jsonl sha256 {val}
"""


def bases() -> list[str]:
    return sorted(path.stem for path in BASES.glob("*.yaml"))


def ablations() -> list[str]:
    return sorted(path.stem for path in (BASES / "ablations").glob("*.yaml"))


def compose(base: str, ablation: str | None, data: Path, run: str, gpus: int) -> dict:
    """The configuration of a run. Raises UserError for unknown names, and for an ablation that changes nothing of this base."""
    if base not in bases():
        raise UserError(f"there is no axolotl/{base}.yaml; MODEL is one of: {', '.join(bases())}")
    config = read_yaml(BASES / f"{base}.yaml", "an Axolotl configuration")
    processes = max(1, gpus)
    batch = effective_batch(config, REFERENCE_GPUS if gpus else 1)
    delta = read_delta(ablation) if ablation else {}
    changed = overlay(config, delta)
    if ablation and changed == config and "data" not in delta:
        raise UserError(f"axolotl/ablations/{ablation}.yaml: {', '.join(delta)} is already so in axolotl/{base}.yaml, so it would only repeat that run")
    config = changed
    for key, name in (("datasets", "train"), ("test_datasets", "val")):
        config[key] = copy.deepcopy(config[key])
        config[key][0]["path"] = str(data / f"{name}.jsonl")
        if config["rl"] in WITHOUT_TYPE:
            del config[key][0]["type"]  # rows are rendered already, and Axolotl has no passthrough for these
    config["dataset_prepared_path"] = f"out/{run}/prepared"
    config["output_dir"] = f"out/{run}/adapter"
    if "gradient_accumulation_steps" not in delta:  # the batch is held, whatever the number of GPUs and the micro-batch
        share, rest = divmod(batch, processes)
        micro = max((m for m in range(1, config["micro_batch_size"] + 1) if not rest and share % m == 0), default=0)
        if not micro or (processes <= REFERENCE_GPUS and micro != config["micro_batch_size"]):
            raise UserError(
                f"an effective batch of {batch} does not divide into {processes} GPUs x micro_batch_size {config['micro_batch_size']}; change GPUS or micro_batch_size"
            )
        config |= {"micro_batch_size": micro, "gradient_accumulation_steps": share // micro}
    return config


def read_delta(ablation: str) -> dict:
    """The keys of an ablation; `data` (datagen.config.Variant) is for the rendering, the others are for Axolotl."""
    if ablation not in ablations():
        raise UserError(f"there is no axolotl/ablations/{ablation}.yaml; ABLATION is one of: {', '.join(ablations())}")
    return read_yaml(BASES / "ablations" / f"{ablation}.yaml", "an ablation")


def overlay(config: dict, delta: dict) -> dict:
    """`config` with a delta on it: null takes a key away, and `x0.1` is a tenth of the base's own number, since bases of different size differ in it."""
    changed = dict(config)
    for key, value in delta.items():
        if key == "data":
            continue
        if value is None:
            changed.pop(key, None)
        elif isinstance(value, str) and (times := re.fullmatch(r"x(\d+(?:\.\d+)?)", value)):
            changed[key] = float(f"{config[key] * float(times[1]):.6g}")
        else:
            changed[key] = value
    return changed


def effective_batch(config: dict, processes: int) -> int:
    return config["micro_batch_size"] * config["gradient_accumulation_steps"] * max(1, processes)


def unknown_keys(config: dict, known: dict) -> list[str]:
    return [f"{key} ({nearest(key, known)})" for key in config if key not in known]


def schema() -> dict:
    """Axolotl's own field names with their aliases (takes seconds: it imports torch)."""
    quiet_libraries()
    try:
        from axolotl.utils.schemas.config import AxolotlInputConfig
    except ModuleNotFoundError:
        raise UserError("Axolotl is not installed in this environment; run `make setup`") from None
    fields = AxolotlInputConfig.model_fields
    return fields | {field.alias: field for field in fields.values() if field.alias}


def gpu_count() -> int:
    """Visible GPUs, by the driver's own tool: importing torch for that would take seconds at every `make`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([device for device in visible.split(",") if device.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 0
    return len(re.findall(r"^GPU \d+:", listed.stdout, re.MULTILINE))


def shape(config: dict) -> tuple[int, int, int] | None:
    """(parameters, trained parameters, vocabulary) of a run, counted on a model without weights; None when the base's config is not at hand.

    LoRA trains r (in + out) parameters a linear layer (Hu et al. 2021, section 4.1).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        base = AutoConfig.from_pretrained(config["base_model"])
    except Exception:  # offline, gated, not yet downloaded: the estimate is a courtesy
        return None
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(base)
    linear = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in name]
    adapter = sum(config["lora_r"] * (m.in_features + m.out_features) for m in linear) if config.get("adapter") == "lora" else None
    return model.num_parameters(), adapter or model.num_parameters(), base.vocab_size


def describe(config: dict, stats: dict, gpus: int) -> list[str]:
    """Effective batch, steps and tokens; memory and time where the base's shape is known. Estimates say what they assume.

    FLOPs a token and parameter: 2 forward, 2 backward through frozen weights, 2 more with gradient checkpointing, and 2 for the reference
    (the base with its adapter switched off) = 6 or 8. Memory: weights, adapter (bf16 copy, fp32 gradient and optimiser states), and
    fp32 logits of chosen and rejected for the longest row, twice (forward and backward), as TRL keeps them.
    """
    processes = max(1, gpus)
    batch = effective_batch(config, processes)
    epochs = config["num_epochs"]
    steps = -(-stats["train"] * epochs // batch)
    lines = [
        f"effective batch {batch} = micro {config['micro_batch_size']} x accumulation {config['gradient_accumulation_steps']} x {processes} "
        + ("GPU(s)" if gpus else "CPU process"),
        f"{steps} steps for {stats['train']} pairs x {epochs} epoch(s), {stats['train_tokens'] * epochs:,} tokens with both answers",
    ]
    counted = shape(config)
    if counted is None:
        return [*lines, f"no estimate of memory and time: the configuration of {config['base_model']} is not on this machine yet"]
    size, adapter, vocabulary = counted
    byte = 1 if config.get("load_in_8bit") else 2 if gpus else 4
    states = 2 if "8bit" in config["optimizer"] else 8
    longest = stats["tokens"]["prompt"]["p100"] + max(stats["tokens"]["chosen"]["p100"], stats["tokens"]["rejected"]["p100"])
    logits = 2 * config["micro_batch_size"] * longest * vocabulary * 4 * 2
    memory = size * byte + adapter * (4 + 4 + states) + logits
    flops = (8 if config["gradient_checkpointing"] else 6) * size * stats["train_tokens"] * epochs
    speed = 125e12 * processes if gpus else 2.5e10  # 40 % of an A100's 312 TFLOP/s; two CPU cores on batches this small
    where = f"{processes} GPU(s) at 125 TFLOP/s each" if gpus else "a CPU at 25 GFLOP/s, after 20 s of start-up"
    seconds = flops / speed + (0 if gpus else 20)
    return [
        *lines,
        f"{size:,} parameters, {adapter:,} trained; estimated memory without activations {memory / 1e9:.2f} GB"
        + (" a GPU" if gpus else "")
        + f"; estimated time {seconds / 60:.1f} min on {where}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--ablation")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, val.jsonl and stats.json")
    parser.add_argument("--run", required=True)
    parser.add_argument("--gpus", type=int, help="default: as many as nvidia-smi lists")
    args = parser.parse_args()
    gpus = gpu_count() if args.gpus is None else args.gpus
    config = compose(args.base, args.ablation, args.data, args.run, gpus)
    stats = read_json(args.data / "stats.json")
    sources = f"axolotl/{args.base}.yaml" + (f" and axolotl/ablations/{args.ablation}.yaml" if args.ablation else "")
    hashes = {name: sha256((args.data / f"{name}.jsonl").read_bytes()) for name in ("train", "val")}
    weights = Path(config["base_model"]) / "model.safetensors"
    text = HEADER.format(run=args.run, sources=sources, rows=f"{stats['train']} + {stats['val']}", **hashes)
    text += f"# base: {weights} sha256 {sha256(weights.read_bytes())}\n" if weights.exists() else ""
    text += yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    out = Path("out") / args.run / "run.yaml"
    if out.exists() and out.read_text() == text:
        return
    wrong = unknown_keys(config, schema())
    if wrong:
        raise UserError(f"{sources}: unknown keys, which Axolotl would ignore without a word: {', '.join(wrong)}")
    print("\n".join(describe(config, stats, gpus)))
    write_text(out, text)
    print(f"{out} written; training starts from it")


if __name__ == "__main__":
    entry(main)
