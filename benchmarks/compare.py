"""The comparison of base and tuned at the leaderboard's full size: how long it takes, and how often its intervals hold the truth.

    python -m benchmarks.compare              # about 4 minutes; --quick: 20 simulations

Logs of 21,606 items are simulated: every item has a chance of being answered, base and tuned share most of their luck (`shared` below), GPQA's nested
sets and MuSR's narratives share theirs. The true difference is known from the chances. Beside the clustered, paired interval stands the unpaired one
by item, which lm-eval's own comparison uses.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from datagen.files import entry, write_json, write_jsonl
from eval import compare, scores
from eval.surface import wilson

SHARED = 0.8  # of the items have the same luck for both models
SKILL = {"base": 0.0, "tuned": -0.02}
TURNS = 200
NARRATIVE = 3  # questions on one MuSR narrative


def simulated(rng: np.random.Generator) -> tuple[dict[str, list[dict]], dict[str, dict[str, list[float]]]]:
    """(rows of base and tuned, and for each the true chance of every item by task)."""
    rows, chances, easy = {who: [] for who in SKILL}, {who: {} for who in SKILL}, {}
    for task, n in scores.ITEMS.items():
        places = [f"question {i}" if "gpqa" in task else f"{task} {i // NARRATIVE if 'musr' in task else i}" for i in range(n)]
        luck = {place: (rng.random(), rng.random(), rng.random() < SHARED) for place in dict.fromkeys(places)}
        for place in luck:
            easy.setdefault(place, 0.25 + 0.6 * rng.beta(2, 2))
        for which, (who, skill) in enumerate(SKILL.items()):
            chances[who][task] = [easy[place] + skill for place in places]
            for i, place in enumerate(places):
                one, other, same = luck[place]
                hit = float((one if same or not which else other) < easy[place] + skill)
                row = {"task": task, "doc": i, "hash": f"{task}-{i}", "cluster": place}
                if "ifeval" in task:
                    row |= {"prompt_level_strict_acc": hit, "inst_level_strict_acc": [bool(hit)], "instructions": ["punctuation:no_comma"]}
                elif "math" in task:
                    row |= {"exact_match_original": hit, "exact_match": hit}
                else:
                    row["acc" if "mmlu" in task else "acc_norm"] = hit
                rows[who].append(row)
    return rows, chances


def expected(rows: dict[str, list[dict]], chances: dict) -> dict[str, float]:
    """The true difference of each score: the scores of the chances themselves."""
    truth = {}
    for who in rows:
        truth[who] = []
        for row in rows[who]:
            chance = chances[who][row["task"]][row["doc"]]
            truth[who].append(row | {metric: [chance] if metric == "inst_level_strict_acc" else chance for metric in scores.METRICS if metric in row})
    return {name: float(t - b) for name, (b, t) in scores.Board(truth["base"], truth["tuned"]).scores.items()}


def unpaired(rows: dict[str, list[dict]], metric: str, prefix: str) -> float:
    """Width of the 95 % interval that takes the two models and all items as independent, in points of accuracy."""
    shares = [np.array([row[metric] for row in rows[who] if row["task"].startswith(prefix)], float) for who in rows]
    return 100 * 2 * 1.96 * float(np.sqrt(sum(s.var() / len(s) for s in shares)))


def timing(rows: dict[str, list[dict]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        places = {}
        for who, tuned in (("base", None), ("tuned", "a")):
            place = places[who] = Path(folder) / who
            settings = {key: "leaderboard" if key == "tasks" else None for key in compare.EQUAL} | {"tasks": ["leaderboard"], "items": None, "model_args": {}}
            identity = {"base_model": "simulated", "base_weights": "w", "tuned_weights": tuned}
            write_json(place / "settings.json", settings | {"identity": identity, "versions": {"antlr4-python3-runtime": "4.11.0"}})
            write_json(place / "results_0.json", {})
            write_jsonl(place / "items.jsonl", rows[who])
            (place / "done").write_text(json.dumps({"seconds": 0}))
        started = time.perf_counter()
        compare.write(Path(folder) / "run", places["base"], places["tuned"])
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    turns = 20 if parser.parse_args().quick else TURNS
    rows, _ = simulated(np.random.default_rng(0))
    compare.canvas(1, 1, (1, 1))  # the import of matplotlib belongs to no comparison
    print(f"\nfull size, {sum(scores.ITEMS.values()):,} items: {timing(rows):.1f} s from the items of both models to tables, figure and intervals (limit 10 s)\n")

    covered, widths = {}, {}
    for turn in range(turns):
        rows, chances = simulated(np.random.default_rng(turn + 1))
        truth = expected(rows, chances)
        for name, column in scores.compare(rows["base"], rows["tuned"]).items():
            low, high = column["difference"][1:]
            covered.setdefault(name, []).append(low <= truth[name] <= high)
            widths.setdefault(name, []).append(high - low)
        widths.setdefault("unpaired MMLU-Pro", []).append(unpaired(rows, "acc", "leaderboard_mmlu_pro") / 0.9)
    for name, hits in covered.items():
        low, high = wilson(sum(hits), len(hits))
        shown = f"{100 * np.mean(hits):5.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {len(hits)}"
        print(f"{name:26} intervals that hold the truth: {shown}; mean width {np.mean(widths[name]):.2f}")
    ratio = np.mean(widths["unpaired MMLU-Pro"]) / np.mean(widths["MMLU-Pro"])
    print(f"\nMMLU-Pro: the unpaired interval is {ratio:.2f} times as wide")


if __name__ == "__main__":
    entry(main)
