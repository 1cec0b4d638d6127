"""Base against tuned on the leaderboard: Tables 6 and 7 of the paper with intervals, or a plain refusal when the two were not asked the same.

    python -m eval.compare out/tiny --base out/leaderboard/tiny/5f0c… --tuned out/tiny/leaderboard/9a1d…     # `make eval` does

Writes out/<run>/leaderboard.json, .csv, .md, .html and .svg (a part of it, by TASKS or LIMIT, under a name of its own). Differences are paired and
clustered (eval.scores). Nothing is written while a check fails. The result is called `machinery` where its items are our own, not the leaderboard's.
"""

import argparse
import base64
import csv
import json
import re
from pathlib import Path

import numpy as np

from datagen.files import UserError, atomic, canonical, entry, iter_jsonl, read_json, read_text, templates, write_json, write_text
from eval import published, scores
from train.monitor import BLUE, VERMILLION, canvas, save
from train.recipe import base_of

DATA_SETS = ("wis-k/instruction-following-eval", "SaylorTwift/bbh", "DigitalLearningGmbH/MATH-lighteval", "Idavidrein/gpqa", "TAUR-Lab/MuSR", "TIGER-Lab/MMLU-Pro")
EQUAL = ("backend", "model", "tasks", "limit", "gen_kwargs", "batch_size", "dtype", "seed", "apply_chat_template", "fewshot_as_multiturn")  # of settings.json
SAID = ("chat_template_sha", "system_instruction_sha", "fewshot_as_multiturn", "versions", "n-shot", "max_length", "lm_eval_version", "transformers_version")
OWN = ("pretrained", "peft", "lora_local_path", "max_lora_rank", "model", "base_url")  # model arguments in which the two are meant to differ
NAMED = 3  # tasks named in a refusal; the others are counted


class Evaluated:
    """One evaluated model: settings.json, lm-eval's results and items.jsonl of its folder. Raises UserError when it was not finished."""

    def __init__(self, folder: Path):
        if not (folder / "done").exists():
            raise UserError(f"{folder}: this evaluation has not come to its end; `make eval` goes on with it")
        self.folder, self.settings = folder, read_json(folder / "settings.json")
        self.results = json.loads(read_text(sorted(folder.glob("results_*.json"))[-1], "lm-eval's results"))
        self.rows = list(iter_jsonl(folder / "items.jsonl", "items"))
        self.tasks = scores.by_task(self.rows)


def unlike(base: Evaluated, tuned: Evaluated) -> list[str]:
    """Everything that keeps a difference from being one of training; empty when base and tuned can be compared."""
    found, b, t = [], base.settings, tuned.settings
    if b["identity"]["tuned_weights"] and not t["identity"]["tuned_weights"]:
        found.append("base and tuned are swapped")
    elif b["identity"]["tuned_weights"] or not t["identity"]["tuned_weights"]:
        found.append("one of the two has to be the base and the other a tuned model")
    for key, name in (("base_model", "the base model"), ("base_weights", "the base's weights")):
        if b["identity"][key] != t["identity"][key]:
            found.append(f"{name}: {b['identity'][key]} against {t['identity'][key]}")
    arguments = sorted({*b["model_args"], *t["model_args"]} - {*OWN})
    pairs = [(key, b.get(key), t.get(key)) for key in EQUAL]
    pairs += [("items", *(s["items"] and s["items"]["hash"] for s in (b, t)))]
    pairs += [(key, b["model_args"].get(key), t["model_args"].get(key)) for key in arguments]
    pairs += [(f"version of {name}", b["versions"].get(name), t["versions"].get(name)) for name in sorted({*b["versions"], *t["versions"]})]
    pairs += [(key, base.results.get(key), tuned.results.get(key)) for key in SAID]
    for key, one, other in pairs:
        if one != other:
            one, other = (str(value) if len(str(value)) < 40 else "one" for value in (one, other))
            found.append(f"{key}: {one} against {other if other != 'one' else 'another'}")
    for which, side in (("base", base), ("tuned", tuned)):
        if not str(side.settings["versions"].get("antlr4-python3-runtime")).startswith("4.11"):
            found.append(f"{which} was scored with antlr {side.settings['versions'].get('antlr4-python3-runtime')}, with which the paper's MATH column is silently 0")
    return found + unlike_items(base, tuned)


def unlike_items(base: Evaluated, tuned: Evaluated) -> list[str]:
    found = []
    if missing := sorted(set(base.tasks) ^ set(tuned.tasks)):
        found.append(f"tasks of one only: {', '.join(missing[:NAMED])}" + (f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""))
    both = sorted(set(base.tasks) & set(tuned.tasks))
    counts = [
        f"{task} has {len(base.tasks[task])} items against {len(tuned.tasks[task])}"
        for task in both
        if [r["doc"] for r in base.tasks[task]] != [r["doc"] for r in tuned.tasks[task]]
    ]
    hashes = [
        f"{task} was asked with other items or prompts (hash {scores.task_hash(base.tasks[task])} against {scores.task_hash(tuned.tasks[task])})"
        for task in both
        if len(base.tasks[task]) == len(tuned.tasks[task]) and scores.task_hash(base.tasks[task]) != scores.task_hash(tuned.tasks[task])
    ]
    whole = base.settings["tasks"] == ["leaderboard"] and not base.settings["limit"] and not base.settings["items"]
    sizes = [f"{task} has {len(base.tasks.get(task, ()))} items, the leaderboard {n}" for task, n in scores.ITEMS.items() if whole and len(base.tasks.get(task, ())) != n]
    for faults in (counts, hashes, sizes):
        found += faults[:NAMED] + ([f"{len(faults) - NAMED} more tasks like this"] if len(faults) > NAMED else [])
    return found


def others(base: Evaluated, tuned: Evaluated) -> list[dict]:
    """Tasks that are not the leaderboard's, such as guards: each metric as lm-eval scores it, the difference paired, the bootstrap over clusters."""
    rows = []
    for task, items in base.tasks.items():
        if task.startswith("leaderboard_"):
            continue
        index = {key: i for i, key in enumerate(dict.fromkeys(row["cluster"] for row in items))}
        at = np.array([index[row["cluster"]] for row in items])
        weights = scores.resample(np.random.default_rng(scores.SEED), len(index), scores.RESAMPLES)
        sizes = weights @ np.bincount(at)
        for metric in sorted(k for k, v in items[0].items() if isinstance(v, bool | int | float) and k != "doc"):
            b, t = (np.array([float(row[metric]) for row in side.tasks[task]]) for side in (base, tuned))
            sides = {"base": b, "tuned": t, "difference": t - b}
            drawn = {who: weights @ np.bincount(at, weights=values) / sizes for who, values in sides.items()}
            rows.append({"task": task, "metric": metric, "n": len(b)} | {who: [float(values.mean()), *scores.interval(drawn[who])] for who, values in sides.items()})
    return rows


def kind(settings: dict, counts: dict[str, int]) -> str:
    """`leaderboard` only where every task has all of the leaderboard's items; `machinery` on items of our own; else `partial`."""
    if settings["items"] and all((Path(settings["items"]["folder"]) / name).is_dir() for name in DATA_SETS):
        return "machinery"
    return "leaderboard" if counts == scores.ITEMS else "partial"


def part_of(settings: dict) -> str:
    """What the names of a part of the leaderboard end in, so that it does not take the place of the whole: tasks and limit, such as -ifeval-50."""
    tasks = [Path(task).stem.removeprefix("leaderboard_") for task in settings["tasks"] if task != "leaderboard"]
    return re.sub(r"[^\w-]", "-", "".join(f"-{name}" for name in [*tasks, *([str(settings["limit"])] if settings["limit"] else [])]))[:80]


def result(run: Path, base: Evaluated, tuned: Evaluated) -> dict:
    columns = scores.compare(base.rows, tuned.rows)
    return {
        "run": run.name,
        "base": base_of(run.name),
        "kind": kind(base.settings, {task: len(rows) for task, rows in base.tasks.items()}),
        "columns": columns,
        "average difference": columns[scores.AVERAGE]["difference"] if scores.AVERAGE in columns else None,
        "instructions": scores.instructions(base.rows, tuned.rows),
        "others": others(base, tuned),
        "settings": {k: base.settings[k] for k in (*EQUAL, "items", "versions")},
        "tasks": {task: {"items": len(rows), "hash": scores.task_hash(rows)} for task, rows in base.tasks.items()},
        "seconds": {who: read_json(side.folder / "done")["seconds"] for who, side in (("base", base), ("tuned", tuned))},
        "tuned_weights": tuned.settings["identity"]["tuned_weights"],
        "files": {"base": str(base.folder), "tuned": str(tuned.folder)},
    }


# ---------------------------------------------------------------- tables and figure


def chart(found: dict, out: Path) -> None:
    """Differences with their intervals, one line a column; pale where it reaches zero."""
    rows = list(found["columns"].items())[::-1]
    fig, axes = canvas(1, 1, (6.4, 0.9 + 0.34 * len(rows)))
    axis = axes[0, 0]
    for y, (_, column) in enumerate(rows):
        value, low, high = column["difference"]
        clear = low > 0 or high < 0
        colour = VERMILLION if value < 0 else BLUE
        axis.plot([low, high], [y, y], color=colour, lw=2.4, alpha=1 if clear else 0.4, solid_capstyle="butt")
        axis.plot([value], [y], "o", color=colour, ms=5.5, alpha=1 if clear else 0.5)
    axis.axvline(0, color="#777777", lw=0.8)
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel("tuned minus base, points; 95 % intervals")
    what = {"machinery": ": check of the machinery", "partial": ": part of the items"}.get(found["kind"], "")
    axis.set_title(found["run"] + what, loc="left", fontsize=10)
    save(fig, out)


def show(value: list[float], signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def context(found: dict) -> dict:
    """What the templates print: numbers as text, and the paper's own beside them."""
    base = found["base"]
    return found | {
        "columns": [
            {"name": name} | {k: show(v, k == "difference") if isinstance(v, list) else v for k, v in column.items()} for name, column in found["columns"].items()
        ],
        "averages": [name for name in (scores.AVERAGE, scores.WITHOUT) if name in found["columns"]],
        "instructions": [row | {"difference": show([100 * x for x in row["difference"]], True)} for row in found["instructions"]],
        "others": [row | {who: show(row[who], who == "difference") for who in ("base", "tuned", "difference")} for row in found["others"]],
        "published": published.published(base),
        "settings_text": ", ".join(f"{k} {canonical(v)}" for k, v in found["settings"].items() if k not in ("versions", "items") and v not in (None, {})),
        "versions_text": ", ".join(f"{k} {v}" for k, v in found["settings"]["versions"].items() if v),
        "n": sum(task["items"] for task in found["tasks"].values()),
    }


def write(run: Path, base_folder: Path, tuned_folder: Path) -> dict:
    """Compares, and writes everything. Raises UserError naming what differs, before anything is written."""
    base, tuned = Evaluated(base_folder), Evaluated(tuned_folder)
    if differences := unlike(base, tuned):
        raise UserError(f"no difference is shown, because base and tuned were not evaluated alike: {'; '.join(differences)}. ({base_folder} and {tuned_folder})")
    found = result(run, base, tuned)
    out = run / f"leaderboard{part_of(base.settings)}"
    chart(found, out.with_suffix(".svg"))
    with atomic(out.with_suffix(".csv")) as file:
        writer = csv.writer(file)
        sides, last = ("base", "tuned", "difference"), ("below zero", "detectable", "items")
        writer.writerow(["column", *(f"{side} {part}" for side in sides for part in ("value", "low", "high")), *last])
        for name, c in found["columns"].items():
            writer.writerow([name, *(x for side in sides for x in c[side]), *(c[key] for key in last)])
    values = context(found)
    write_text(
        out.with_suffix(".md"),
        templates(Path(__file__).parent, False).get_template("leaderboard.md.j2").render(run=found["run"], board=values | {"figure": f"{out.name}.svg"}),
    )
    write_text(
        out.with_suffix(".html"),
        templates(Path(__file__).parent, True)
        .get_template("leaderboard.html.j2")
        .render(run=found["run"], board=values | {"figure": embedded(read_text(out.with_suffix(".svg"), "the figure"))}),
    )
    write_json(out.with_suffix(".json"), found)
    print(table(found))
    print(f"{out.with_suffix('.html')}, .md, .csv and .json")
    return found


def embedded(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def table(found: dict) -> str:
    lines = [f"{found['run']}, {found['kind']}: 95 % intervals of the paired difference, clustered bootstrap, {scores.RESAMPLES} resamples"]
    lines += [f"{'':26} {'base':>7} {'tuned':>7} {'difference':>24} {'below 0':>8} {'could see':>10} {'items':>7}"]
    for name, c in found["columns"].items():
        lines.append(
            f"{name:26} {c['base'][0]:7.2f} {c['tuned'][0]:7.2f} {show(c['difference'], True):>24} {c['below zero']:8.3f} {c['detectable']:10.2f} {c['items']:7,}"
        )
    lines += [f"{row['task']}, {row['metric']}: base {row['base'][0]:.3f}, difference {show(row['difference'], True)}, n {row['n']}" for row in found["others"]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--base", type=Path, required=True, help="folder of the evaluated base")
    parser.add_argument("--tuned", type=Path, required=True, help="folder of the evaluated tuned model")
    args = parser.parse_args()
    write(args.run, args.base, args.tuned)


if __name__ == "__main__":
    entry(main)
