"""Trains one run through Axolotl: `accelerate launch -m axolotl.cli.train out/<run>/run.yaml`, with its log kept and its steps shown.

    python -m train.launch out/tiny

Everything the trainer says goes to `out/<run>/train.log`. An earlier adapter is kept as `adapter.previous` until the next
training. The mark of completion, `out/<run>/done`, is written last.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from datagen.files import UserError, entry, write_json
from train.recipe import gpu_count

STEP = re.compile(r"\{'.*'epoch'.*\}")  # the trainer's line for a step: a Python dict of numbers


def end_leftover(pid_file: Path) -> None:
    """Ends a training of this run that outlived a killed `make`: two would write into one folder."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError, PermissionError):
        group = int(pid_file.read_text())
        command = Path(f"/proc/{group}/cmdline")
        if not command.exists() or b"axolotl" in command.read_bytes() or not Path("/proc/self").exists():
            os.killpg(group, signal.SIGKILL)
            print(f"ended a training of this run that was left over (process group {group})")


def show(line: str, steps: int) -> str | None:
    """`step 12 of 58  loss 0.61  margin 0.35  accuracy 0.81` for the trainer's line of a step, else None."""
    match = STEP.search(line)
    if not match:
        return None
    try:
        values = json.loads(match[0].replace("'", '"').replace("nan", "NaN"))
    except json.JSONDecodeError:
        return None
    prefix = "eval_" if "eval_loss" in values else ""
    names = {"loss": f"{prefix}loss", "margin": f"{prefix}rewards/margins", "accuracy": f"{prefix}rewards/accuracies"}
    if names["margin"] not in values:
        return None
    numbers = "  ".join(f"{label} {float(values[name]):.3f}" for label, name in names.items())
    return f"  {'held-out pairs' if prefix else f'step {steps + 1:4}    '}  {numbers}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--gpus", type=int, help="default: as many as there are")
    args = parser.parse_args()
    gpus = gpu_count() if args.gpus is None else args.gpus
    try:
        versions = {name: importlib.metadata.version(name) for name in ("axolotl", "trl", "peft", "transformers", "torch", "datasets")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"{error.name} is not installed in this environment; run `make setup`") from None
    end_leftover(args.run / "train.pid")
    (args.run / "done").unlink(missing_ok=True)
    shutil.rmtree(args.run / "prepared", ignore_errors=True)  # a killed preparation leaves flags behind that later runs wait for
    adapter = args.run / "adapter"
    if (adapter / "adapter_config.json").exists():
        shutil.rmtree(args.run / "adapter.previous", ignore_errors=True)
        adapter.rename(args.run / "adapter.previous")
    shutil.rmtree(adapter, ignore_errors=True)

    where = ["--cpu", "--num_processes", "1"] if not gpus else ["--num_processes", str(gpus), *(["--multi_gpu"] if gpus > 1 else [])]
    command = [sys.executable, "-m", "accelerate.commands.launch", *where, "-m", "axolotl.cli.train", str(args.run / "run.yaml")]
    log, started, steps, tail = args.run / "train.log", time.time(), 0, ""
    print(f"  accelerate launch -m axolotl.cli.train {args.run / 'run.yaml'} (log: {log})", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace")
    (args.run / "train.pid").write_text(str(process.pid))
    try:
        with open(log, "w", encoding="utf-8") as out:
            for line in process.stdout:
                out.write(line)
                if shown := show(line, steps):
                    steps += "step" in shown
                    if "held-out" in shown or steps % 10 == 1:
                        print(shown, flush=True)
                elif re.search(r"\w(Error|Exception)\b", line):
                    tail = line.strip()
        status = process.wait()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        (args.run / "train.pid").unlink(missing_ok=True)
    if status or not (adapter / "adapter_config.json").exists():
        raise UserError(f"the training ended with status {status} and no finished adapter; its log is {log}" + (f": {tail[:300]}" if tail else ""))
    shutil.rmtree(args.run / "prepared", ignore_errors=True)
    for path in adapter.glob("model*.safetensors*"):
        path.unlink()  # Axolotl saves the whole wrapped base beside the adapter, under names that nothing can load (16 GB for 8 B)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    write_json(args.run / "done", {"commit": commit, "seconds": round(time.time() - started, 1), "processes": max(1, gpus), "gpus": gpus, "versions": versions})
    print(f"  trained in {time.time() - started:.0f} s: {adapter}")


if __name__ == "__main__":
    entry(main)
