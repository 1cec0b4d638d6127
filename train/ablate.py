"""Runs a base and its ablations, those that are missing, and puts them into one table: `make ablate MODEL=tiny SET="lora-r64 beta-0.5"`.

    python -m train.ablate tiny --set "lora-r64 beta-0.5" PROFILE=tiny      # VARIABLE=value are handed on to make
    python -m train.ablate llama3-8b                                        # every delta of axolotl/ablations/

Each run is `make measure` of its own, so what is finished is not done again, and what was broken off goes on. With several GPUs, as many
runs go on at once, one GPU each. A run that fails is named, and the others go on. Writes out/ablations/<base>.md, .csv, .json and
<base>-margins.svg.
"""

import argparse
import csv
import os
import queue
import subprocess
import threading
from pathlib import Path

import numpy as np

from datagen.files import UserError, atomic, entry, read_json, read_jsonl, sha256, write_json, write_text
from eval.surface import bootstrap, friendlier, read_answers, wilson, words
from train.monitor import read_log, together
from train.recipe import ablations, gpu_count

FOLDER = Path("out/ablations")
WEIGHTS = Path("eval/weights/turn.json")
COLUMNS = {  # name in the table -> (what it is, whether a share)
    "margin": ("nats by which training moved chosen against rejected, held-out pairs", False),
    "accuracy": ("held-out pairs ranked rightly", True),
    "chosen moved": ("nats by which training moved the chosen answers", False),
    "friendlier": ("tuned answers told from the base's, toward a friend's talk", True),
    "words": ("words in a tuned answer", False),
    "human-likeness": ("by how much a tuned answer scores above the base's (logits of eval/weights/turn.json, `answers-likeness.json`)", False),
    "second scorer": ("the same by the scorer that made no pairs (`data/<set>/second.json`)", False),
}
SCORES = {"human-likeness": "raw", "second scorer": "second"}  # name in the table -> key of answers-likeness.jsonl


def make(variables: list[str], *arguments: str, log: Path | None = None, **environment: str) -> subprocess.CompletedProcess:
    where = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        where = {"stdout": open(log, "w", encoding="utf-8"), "stderr": subprocess.STDOUT}  # noqa: SIM115
    # Without -n, -s or a job server that an outer make was given.
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
    return subprocess.run(["make", "--no-print-directory", *arguments, *variables], env=inherited | environment, **where)


def folders(variables: list[str]) -> tuple[Path, Path]:
    """(folder of the run, folder of its rendered data), as the Makefile has them."""
    done = make(variables, "-s", "where")
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1].removeprefix("error: "))
    return tuple(map(Path, done.stdout.split()[-2:]))


def run_all(runs: dict[str, list[str]], places: dict[str, Path], gpus: int) -> dict[str, str]:
    """Runs `make measure` for each, one at a time or one a GPU. Returns the last words of those that failed."""
    free: queue.Queue = queue.Queue()
    for slot in range(max(1, gpus)):
        free.put(slot)
    failed, threads = {}, []

    def one(name: str, slot: int) -> None:
        log = places[name] / "ablate.log"
        environment = {"CUDA_VISIBLE_DEVICES": visible(slot)} if gpus > 1 else {}
        done = make([*runs[name], *(["GPUS=1"] if gpus > 1 else [])], "measure", log=log, **environment)
        lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        if done.returncode:
            failed[name] = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no output").removeprefix("error: ")
        print(f"  {name}: " + (f"failed, {failed[name]} ({log})" if done.returncode else "done"), flush=True)
        free.put(slot)

    for name in runs:
        slot = free.get()
        print(f"  {name}: {places[name]}", flush=True)
        threads.append(threading.Thread(target=one, args=(name, slot)))
        threads[-1].start()
        if gpus < 2:
            threads[-1].join()
    for thread in threads:
        thread.join()
    return failed


def visible(slot: int) -> str:
    listed = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d.strip()]
    return listed[slot] if listed else str(slot)


def values(run: Path) -> dict[str, np.ndarray]:
    """What one run has, pair by pair and answer by answer, for as many of COLUMNS as were measured."""
    held = read_json(run / "heldout.json")
    margins = np.array(held["margins"])
    found = {"margin": margins, "accuracy": (margins > 0).astype(float), "chosen moved": np.array(held["chosen"])}
    if (run / "answers.jsonl").exists():
        answers = read_answers(run / "answers.jsonl")
        found["friendlier"] = np.array([float(friendlier(row["tuned"], row["base"])) for row in answers])
        found["words"] = np.array([float(words(row["tuned"])) for row in answers])
        found |= scored(run)
    return found


def scored(run: Path) -> dict[str, np.ndarray]:
    """Tuned less base, answer by answer, by the score and by the second scorer; nothing where they are of other answers or other weights."""
    path = run / "answers-likeness.json"
    about = read_json(path) if path.exists() else {}
    if about.get("sha256") != sha256((run / "answers.jsonl").read_bytes()) or about["weights"]["sha256"] != sha256(WEIGHTS.read_bytes()):
        return {}
    rows = read_jsonl(path.with_suffix(".jsonl"), "scores, from `make score`")
    sides = {side: [row for row in rows if row["side"] == side] for side in ("tuned", "base")}
    return {name: np.array([tuned[key] - base[key] for tuned, base in zip(sides["tuned"], sides["base"], strict=True)]) for name, key in SCORES.items() if key in rows[0]}


def compare(run: dict[str, np.ndarray], baseline: dict[str, np.ndarray]) -> dict:
    """For each measure (value, low, high), and the same for the paired difference to the baseline, where items are the same in number."""
    row = {}
    for name, (_, share) in COLUMNS.items():
        if name not in run:
            continue
        data = run[name]
        row[name] = [float(data.mean()), *map(float, wilson(int(data.sum()), len(data)) if share else bootstrap(data))]
        row[f"{name} n"] = len(data)
        if run is not baseline and len(baseline.get(name, ())) == len(data):
            difference = data - baseline[name]
            row[f"{name} difference"] = [float(difference.mean()), *map(float, bootstrap(difference))]
    return row


def cell(value: list[float] | None, share: bool, signed: bool = False) -> str:
    if value is None:
        return "–"
    scale, form = (100, ".1f") if share else (1, ".2f" if abs(value[0]) < 10 else ".1f")
    return f"{value[0] * scale:{'+' if signed else ''}{form}} [{value[1] * scale:{form}}, {value[2] * scale:{form}}]" + (" %" if share and not signed else "")


def table(base: str, rows: dict[str, dict], failed: dict[str, str]) -> str:
    """Markdown: a line for each run, value with interval, and below it the difference to the first run."""
    first = next(iter(rows))
    lines = [
        f"# Ablations of {base}",
        "",
        f"95 % intervals; second line: difference to {first}, over the same items (bootstrap). From each run's `heldout.json` and `answers.jsonl`.",
        "",
    ]
    lines += [f"- **{name}**: {what}" + (", %" if share else "") for name, (what, share) in COLUMNS.items()]
    lines += ["", "| run | pairs, steps | " + " | ".join(COLUMNS) + " | leaderboard | alarms |", "|---" * (len(COLUMNS) + 4) + "|"]
    for name, row in rows.items():
        lines.append(
            f"| {name} | {row['train']:,}, {row['steps']} | "
            + " | ".join(cell(row.get(c), share) for c, (_, share) in COLUMNS.items())
            + f" | {row['leaderboard']} | {row['alarms']} |"
        )
        if name != first:
            lines.append("| | | " + " | ".join(cell(row.get(f"{c} difference"), share, True) for c, (_, share) in COLUMNS.items()) + " | | |")
    n = rows[first]
    lines += [
        "",
        f"n = {n['margin n']} held-out pairs"
        + (f", {n['friendlier n']} answers" if "friendlier n" in n else "; no answers yet (`make answers` of a run makes them)")
        + ".",
    ]
    lines += [f"\n{name} failed: {why}" for name, why in failed.items()]
    return "\n".join(lines) + "\n"


def leaderboard(run: Path) -> str:
    """The change of the leaderboard's average where `make eval` has measured it, with its interval; marked where it is not the leaderboard's own items."""
    path = run / "leaderboard.json"
    found = read_json(path) if path.exists() else {}
    mark = {"machinery": " (items of our own)", "partial": " (part of the items)"}.get(found.get("kind"), "")
    return cell(found["average difference"], False, True) + mark if found.get("average difference") else "–"


def alarms(run: Path) -> str:
    path = run / "health.json"
    return ", ".join(sorted({alarm["name"] for alarm in read_json(path)["alarms"]})) or "none" if path.exists() else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--set", default="", help="names of ablations; empty: all")
    parser.add_argument("--gpus", type=int, help="default: as many as nvidia-smi lists")
    parser.add_argument("variables", nargs="*", metavar="VARIABLE=value", help="handed on to make")
    args = parser.parse_intermixed_args()  # options may stand between base and variables
    names = args.set.split() or ablations()
    if unknown := [name for name in names if name not in ablations()]:
        raise UserError(f"there is no axolotl/ablations/{unknown[0]}.yaml; SET takes: {', '.join(ablations())}")
    gpus = gpu_count() if args.gpus is None else args.gpus
    runs = {name or args.base: [f"MODEL={args.base}", f"ABLATION={name}", *args.variables] for name in ["", *dict.fromkeys(names)]}
    where = {name: folders(variables) for name, variables in runs.items()}
    places = {name: run for name, (run, _) in where.items()}
    for name, variables in runs.items():  # data is made once, and before anything that goes on at the same time
        if make(variables, "format", log=places[name] / "ablate.log").returncode:
            raise UserError(f"{name}: its data could not be made: {(places[name] / 'ablate.log').read_text().strip().splitlines()[-1].removeprefix('error: ')}")
    failed = run_all(runs, places, gpus)
    if args.base in failed:
        raise UserError(f"{args.base}: the run without ablation failed, and the others have nothing to be compared with: {failed[args.base]}")

    baseline, rows = values(places[args.base]), {}
    for name in runs:
        if name not in failed:
            run, data = where[name]
            row = compare(baseline if name == args.base else values(run), baseline)
            rows[name] = {"train": read_json(data / "stats.json")["train"], "steps": read_json(run / "metrics.json")["steps"]} | row
            rows[name] |= {"leaderboard": leaderboard(run), "alarms": alarms(run)}
    out = FOLDER / args.base
    together({name: read_log(places[name] / "adapter") for name in rows}, out.with_name(f"{args.base}-margins.svg"))
    write_text(out.with_suffix(".md"), table(args.base, rows, failed))
    write_json(out.with_suffix(".json"), {"base": args.base, "runs": rows, "failed": failed})
    with atomic(out.with_suffix(".csv")) as file:
        writer = csv.writer(file)
        writer.writerow(
            ["run", "train", "steps", *(f"{c} {part}" for c in COLUMNS for part in ("value", "low", "high", "difference", "difference low", "difference high"))]
        )
        for name, row in rows.items():
            numbers = [x for c in COLUMNS for x in (*(row.get(c) or [""] * 3), *(row.get(f"{c} difference") or [""] * 3))]
            writer.writerow([name, row["train"], row["steps"], *numbers])
    print(table(args.base, rows, failed))
    print(f"{out.with_suffix('.md')}, .csv and .json; margins as the trainers logged them, with the beta of each: {args.base}-margins.svg, .png and .csv")
    if failed:
        raise UserError(f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed)}; the same command tries them again")


if __name__ == "__main__":
    entry(main)
