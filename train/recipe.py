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


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.yaml"))


def bases() -> list[str]:
    return names(BASES)


def ablations() -> list[str]:
    return names(BASES / "ablations")


def base_of(run: str) -> str:
    """The base in a run's name: <base>[@set][+ablation]."""
    return run.partition("+")[0].partition("@")[0]


def compose(base: str, ablation: str | None, data: Path, run: str, gpus: int, scale: str | None = None) -> dict:
    """The configuration of a run. Raises UserError for unknown names, and for an ablation that changes nothing of this base."""
    if base not in bases():
        raise UserError(f"there is no axolotl/{base}.yaml; MODEL is one of: {', '.join(bases())}")
    config = read_yaml(BASES / f"{base}.yaml", "an Axolotl configuration")
    processes = max(1, gpus)
    batch = effective_batch(config, REFERENCE_GPUS if gpus else 1)
    delta = read_delta("ablations", ablation) if ablation else {}
    changed = overlay(config, delta)
    if ablation and changed == config and "data" not in delta:
        raise UserError(f"axolotl/ablations/{ablation}.yaml: {', '.join(delta)} is already so in axolotl/{base}.yaml, so it would only repeat that run")
    config = overlay(changed, read_delta("scale", scale) if scale else {})
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


def read_delta(kind: str, name: str) -> dict:
    """The keys of an ablation or of settings for several GPUs. An ablation's `data` (datagen.config.Variant) is for the rendering, all others are for Axolotl."""
    known = names(BASES / kind)
    if name not in known:
        raise UserError(f"there is no axolotl/{kind}/{name}.yaml; {'ABLATION' if kind == 'ablations' else 'SCALE'} is one of: {', '.join(known)}")
    return read_yaml(BASES / kind / f"{name}.yaml", "a delta of an Axolotl configuration")


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


def main() -> None:
    from train.plan import describe  # which imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--ablation")
    parser.add_argument("--scale", help="settings for several GPUs, a file of axolotl/scale/")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl, val.jsonl and stats.json")
    parser.add_argument("--run", required=True)
    parser.add_argument("--gpus", type=int, help="default: as many as nvidia-smi lists")
    args = parser.parse_args()
    gpus = gpu_count() if args.gpus is None else args.gpus
    config = compose(args.base, args.ablation, args.data, args.run, gpus, args.scale)
    stats = read_json(args.data / "stats.json")
    named = [f"{args.base}.yaml", *([f"ablations/{args.ablation}.yaml"] if args.ablation else []), *([f"scale/{args.scale}.yaml"] if args.scale else [])]
    sources = " and ".join(f"axolotl/{name}" for name in named)
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
