"""Trains one run through Axolotl: `accelerate launch -m axolotl.cli.train out/<run>/run.yaml`, with its log kept and its steps shown.

    python -m train.launch out/tiny

Everything the trainer says goes to `out/<run>/train.log`. An earlier adapter is kept as `adapter.previous` until the next
training. The mark of completion, `out/<run>/done`, is written last. Each step is given to train.health, whose alarms are printed as
they fire and kept in `health.json`; with STOP_ON_ALARM=1 a grave one ends the run.

A training that was cut off goes on from its newest whole checkpoint, if its run.yaml and the number of processes are what it began with
(`out/<run>/started` says that). Several machines run the same command, each with NODES, NODE_RANK and MAIN_ADDRESS (axolotl/scale/slurm.sh);
`--gpus` is the number on each. `--gpus 0 --processes 2` trains in two processes on a CPU.
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

import yaml

from datagen.files import UserError, entry, read_json, read_text, sha256, write_json
from train import health
from train.monitor import log_row, read_log
from train.recipe import gpu_count

STEP = re.compile(r"\{'.*'epoch'.*\}")  # the trainer's line for a step: a Python dict of numbers


def end(process: subprocess.Popen) -> None:
    """Kills a child that was started in a session of its own, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    process.wait()


def end_leftover(pid_file: Path) -> None:
    """Ends a training of this run that outlived a killed `make`: two would write into one folder."""
    with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError, PermissionError):
        group = int(pid_file.read_text())
        command = Path(f"/proc/{group}/cmdline")
        if not command.exists() or b"axolotl" in command.read_bytes() or not Path("/proc/self").exists():
            os.killpg(group, signal.SIGKILL)
            print(f"ended a training of this run that was left over (process group {group})")


def place() -> tuple[int, int, str, int]:
    """(machines, rank of this one, address and port of the first), from NODES, NODE_RANK, MAIN_ADDRESS and MAIN_PORT."""
    try:
        nodes, rank, port = (int(os.environ.get(name) or default) for name, default in (("NODES", 1), ("NODE_RANK", 0), ("MAIN_PORT", 29500)))
    except ValueError:
        raise UserError("NODES, NODE_RANK and MAIN_PORT must be whole numbers") from None
    address = os.environ.get("MAIN_ADDRESS") or ("127.0.0.1" if nodes == 1 else "")
    if not 0 <= rank < nodes or not address:
        raise UserError(f"NODES={nodes} NODE_RANK={rank} MAIN_ADDRESS={address}: the ranks are 0 to NODES - 1, and several machines need the address of the first")
    return nodes, rank, address, port


def compose_command(run: Path, config: dict, gpus: int, processes: int, resume: Path | None = None) -> tuple[list[str], dict]:
    """The command that trains, and what it needs in the environment. `gpus` and `processes` (on a CPU) are those of this machine.

    On a CPU `accelerate launch --num_processes 2` starts one process and says nothing, so torchrun starts them there; Axolotl then asks
    for a device by the rank's number, which only `max_memory` takes back. Ray starts its own workers, and DeepSpeed and FSDP are
    switched on by Axolotl from the configuration: their command is the same as that of DDP.
    """
    nodes, rank, address, port = place()
    train = ["-m", "axolotl.cli.train", str(run / "run.yaml"), *([f"--resume_from_checkpoint={resume}"] if resume else [])]
    if config.get("use_ray"):
        return [sys.executable, *train], {}
    if not gpus and nodes * processes > 1:
        meet = ["--nnodes", str(nodes), "--node_rank", str(rank), "--nproc_per_node", str(processes), "--master_addr", address, "--master_port", str(port)]
        environment = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // processes))}
        return [sys.executable, "-m", "torch.distributed.run", *meet, *train, "--max_memory={'cpu': '1024GiB'}"], environment
    where = ["--cpu", "--num_processes", "1"] if not gpus else ["--num_processes", str(gpus * nodes), *(["--multi_gpu"] if gpus * nodes > 1 else [])]
    if nodes > 1:
        where += ["--num_machines", str(nodes), "--machine_rank", str(rank), "--main_process_ip", address, "--main_process_port", str(port)]
    return [sys.executable, "-m", "accelerate.commands.launch", *where, *train], {}


def unfinished(run: Path, mark: dict) -> Path | None:
    """The newest whole checkpoint of a training that began with the same `mark` and was cut off, else None. Deletes those cut off in writing.

    The trainer writes trainer_state.json last, so a checkpoint that has it whole is whole.
    """
    if not (run / "started").exists() or read_json(run / "started") != mark:
        return None
    for folder in sorted((run / "adapter").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads((folder / "trainer_state.json").read_text())["global_step"] == int(folder.name.split("-")[1]):
                return folder
        shutil.rmtree(folder)
    return None


def parse(line: str) -> dict | None:
    """The numbers (some are strings) of the trainer's line for a step or an evaluation, else None."""
    match = STEP.search(line)
    if not match:
        return None
    try:
        return json.loads(match[0].replace("'", '"').replace("nan", "NaN").replace("inf", "Infinity"))
    except json.JSONDecodeError:
        return None


def show(line: str, steps: int) -> str | None:
    """`step 12 of 58  loss 0.61  margin 0.35  accuracy 0.81` for the trainer's line of a step, else None."""
    values = parse(line)
    if values is None:
        return None
    prefix = "eval_" if "eval_loss" in values else ""
    names = {"loss": f"{prefix}loss", "margin": f"{prefix}rewards/margins", "accuracy": f"{prefix}rewards/accuracies"}
    if names["margin"] not in values:
        return None
    numbers = "  ".join(f"{label} {float(values[name]):.3f}" for label, name in names.items() if name in values)  # KTO logs no accuracy
    return f"  {'held-out pairs' if prefix else f'step {steps + 1:4}    '}  {numbers}"


def tell(alarms: list[health.Alarm], watch: health.Watch, run: Path, ended: bool = False) -> None:
    """Prints new alarms and keeps all. Raises UserError for a grave one where STOP_ON_ALARM asks for that and there is still something to end."""
    grave = [alarm for alarm in alarms if alarm.level == "stop"] if health.stop_wanted() and not ended else []
    if alarms:
        health.write(run, watch, stopped=bool(grave))
    for alarm in alarms:
        if alarm not in grave[:1]:
            print(f"  {alarm}", flush=True)
    if grave:
        raise UserError(f"{run}: ended by STOP_ON_ALARM; what was finished is kept. {grave[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--gpus", type=int, help="on this machine; default: as many as there are")
    parser.add_argument("--processes", type=int, default=1, help="on this machine's CPU, without a GPU")
    args = parser.parse_args()
    gpus = gpu_count() if args.gpus is None else args.gpus
    nodes, rank, *_ = place()
    config = yaml.safe_load(text := read_text(args.run / "run.yaml", "written by train.recipe"))
    processes = nodes * (config.get("ray_num_workers", 1) if config.get("use_ray") else gpus or args.processes)
    try:
        versions = {name: importlib.metadata.version(name) for name in ("axolotl", "trl", "peft", "transformers", "torch", "datasets")}
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError(f"{error.name} is not installed in this environment; run `make setup`") from None
    name = f"-{rank}" if rank else ""
    end_leftover(args.run / f"train{name}.pid")
    watch = health.Watch(health.gather(args.run, gpus=gpus * nodes, processes=processes))
    if not rank:
        (args.run / "health.json").unlink(missing_ok=True)
        tell(watch.data(), watch, args.run)  # settings and data, before anything of an earlier run is touched
    adapter = args.run / "adapter"
    product = adapter / ("adapter_config.json" if config.get("adapter") else "config.json")
    mark = {"run.yaml": sha256(text), "processes": processes}
    finished = (args.run / "done").exists()
    resume = None if finished else unfinished(args.run, mark)
    if not rank:  # the other machines of a run share this folder, and only read it
        (args.run / "done").unlink(missing_ok=True)
        shutil.rmtree(args.run / "prepared", ignore_errors=True)  # a killed preparation leaves flags behind that later runs wait for
    if not rank and not resume:
        if finished and product.exists():  # a training that was ended leaves a product without weights, which must not take the place of a whole one
            shutil.rmtree(args.run / "adapter.previous", ignore_errors=True)
            adapter.rename(args.run / "adapter.previous")
        shutil.rmtree(adapter, ignore_errors=True)
        write_json(args.run / "started", mark)

    for row in read_log(adapter) if resume and not rank else []:
        tell(watch.step(row), watch, args.run)
    command, environment = compose_command(args.run, config, gpus, args.processes, resume)
    log, started, tail = args.run / f"train{name}.log", time.time(), ""
    steps = int(resume.name.split("-")[1]) if resume else 0
    print(f"  {f'goes on from {resume}; ' if resume else ''}{' '.join(command[2:])} (log: {log})", flush=True)
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        start_new_session=True, text=True, errors="replace", env=os.environ | environment,
    )  # fmt: skip
    (args.run / f"train{name}.pid").write_text(str(process.pid))
    try:
        with open(log, "a" if resume else "w", encoding="utf-8", buffering=1) as out:  # by lines, so that kill -9 takes none
            for line in process.stdout:
                out.write(line)
                if row := log_row(parse(line) or {}, watch.next_step("eval_loss" in line)):
                    tell(watch.step(row), watch, args.run)
                if shown := show(line, steps):
                    steps += "step" in shown
                    if "held-out" in shown or steps % 10 == 1:
                        print(shown, flush=True)
                elif "validation error" in tail and tail.endswith("Capabilities"):
                    tail = line.strip()  # pydantic's reason stands on the next line
                elif re.search(r"\w(Error|Exception)\b", line) and not re.search(r"CalledProcessError|ChildFailedError", line):  # of the launcher: only that it failed
                    tail = line.strip()
        status = process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        (args.run / f"train{name}.pid").unlink(missing_ok=True)
    if rank and not status:
        return  # the first machine writes the rest
    if status or not product.exists():
        raise UserError(f"the training ended with status {status} and no finished adapter; its log is {log}" + (f": {tail[:300]}" if tail else ""))
    tell(watch.end(), watch, args.run, ended=True)
    health.write(args.run, watch)
    shutil.rmtree(args.run / "prepared", ignore_errors=True)
    for path in adapter.glob("model*.safetensors*") if config.get("adapter") else []:
        path.unlink()  # Axolotl saves the whole wrapped base beside the adapter, under names that nothing can load (16 GB for 8 B)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    write_json(args.run / "done", {"commit": commit, "seconds": round(time.time() - started, 1), "processes": processes, "gpus": gpus * nodes, "versions": versions})
    (args.run / "started").unlink(missing_ok=True)
    print(f"  trained in {time.time() - started:.0f} s: {adapter}")


if __name__ == "__main__":
    entry(main)
