"""The six scores of the Open LLM Leaderboard v2 from what lm-eval logged, item by item, with clustered bootstrap.

    python -m eval.scores out/leaderboard/tiny/5f0c…        # the scores of one evaluated model, from its items.jsonl

lm-eval reports raw accuracies; the leaderboard scales each between its chance level and 1, and averages. The scaling was checked against published
scores on the official raw runs (tests/test_scores.py). Items of one source stand or fall together, so whole clusters are drawn: the question for GPQA,
whose three sets hold each other, the narrative for MuSR, the prompt for IFEval (Miller 2024, arXiv 2411.00640).
"""

import argparse
import ast
import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from datagen.files import UserError, entry, iter_jsonl, sha256, write_jsonl
from eval.surface import newcombe, wilson

RESAMPLES, SEED = 2000, 1
CHOICES = {  # BBH: number of options of each subtask, whose inverse is its chance level
    **dict.fromkeys(("boolean_expressions", "causal_judgement", "formal_fallacies", "hyperbaton", "navigate", "snarks", "sports_understanding", "web_of_lies"), 2),
    **dict.fromkeys(("disambiguation_qa", "logical_deduction_three_objects", "tracking_shuffled_objects_three_objects"), 3),
    "temporal_sequences": 4,
    **dict.fromkeys(("logical_deduction_five_objects", "penguins_in_a_table", "tracking_shuffled_objects_five_objects"), 5),
    **dict.fromkeys(("date_understanding", "movie_recommendation", "ruin_names", "salient_translation_error_detection"), 6),
    **dict.fromkeys(("logical_deduction_seven_objects", "tracking_shuffled_objects_seven_objects"), 7),
    "geometric_shapes": 11,
    "reasoning_about_colored_objects": 18,
    "object_counting": 19,
}
MATH = ("algebra", "counting_and_prob", "geometry", "intermediate_algebra", "num_theory", "prealgebra", "precalculus")
MUSR = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
# Items of each task in the leaderboard's data sets. Anything else is not the leaderboard.
ITEMS = {
    "leaderboard_ifeval": 541,
    **{f"leaderboard_bbh_{name}": {"causal_judgement": 187, "snarks": 178, "penguins_in_a_table": 146}.get(name, 250) for name in CHOICES},
    **{f"leaderboard_math_{name}_hard": n for name, n in zip(MATH, (307, 123, 132, 280, 154, 193, 135), strict=True)},
    "leaderboard_gpqa_main": 448,
    "leaderboard_gpqa_extended": 546,
    "leaderboard_gpqa_diamond": 198,
    "leaderboard_musr_murder_mysteries": 250,
    "leaderboard_musr_object_placements": 256,
    "leaderboard_musr_team_allocation": 250,
    "leaderboard_mmlu_pro": 12032,
}
METRICS = ("acc_norm", "acc", "exact_match_original", "exact_match", "prompt_level_strict_acc", "inst_level_strict_acc")
SIX = ("IFEval", "BBH", "MATH Lvl 5", "GPQA", "MuSR", "MMLU-Pro")  # in the order of the paper's Table 6
AVERAGE, WITHOUT, MODERN = "Average", "Average without IFEval", "MATH Lvl 5 (math-verify)"
COLUMNS = ("IFEval", "BBH", "MATH Lvl 5", MODERN, "GPQA", "MuSR", "MMLU-Pro", AVERAGE, WITHOUT)


# ---------------------------------------------------------------- from lm-eval's logs to items


def native(value: object) -> object:
    """lm-eval writes what a metric returned either as itself or as its text."""
    return ast.literal_eval(value) if isinstance(value, str) and re.fullmatch(r"[\d.\[\], TrueFals]+", value) else value


def cluster(task: str, doc: dict, doc_id: int) -> str:
    """What stands or falls together with this item. Hashed: GPQA's terms ask not to spread its text."""
    key = "Question" if "gpqa" in task else "narrative" if "musr" in task else "scenario" if "emobench" in task else None
    text = key and doc.get(key)
    return sha256(text)[:12] if text else f"{task.removeprefix('leaderboard_')}/{doc_id}"


def distil(folder: Path) -> list[dict]:
    """One small row an item, from lm-eval's sample logs in `folder` (a gigabyte for the whole leaderboard): task, doc_id, hashes, cluster, metrics.

    Raises UserError when a log is missing an item that the results count (a full disk, a killed run: lm-eval itself only warns).
    """
    results = sorted(folder.glob("results_*.json"))
    if not results:
        raise UserError(f"{folder}: lm-eval left no results; the end of {folder / 'lm-eval.log'} says why")
    found, rows = json.loads(results[-1].read_text(encoding="utf-8")), []
    stamp = results[-1].stem.removeprefix("results_")
    for task, counts in sorted(found["n-samples"].items()):
        seen, log = {}, folder / f"samples_{task}_{stamp}.jsonl"
        for sample in iter_jsonl(log, f"lm-eval's log of {task}") if log.exists() else ():
            doc = sample["doc"]
            row = {
                "task": task,
                "doc": sample["doc_id"],
                "hash": sha256(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"])[:16],
                "cluster": cluster(task, doc, sample["doc_id"]),
            }
            row |= {metric: native(sample[metric]) for metric in sample.get("metrics", METRICS) if metric in sample}
            if "instruction_id_list" in doc:
                row["instructions"] = doc["instruction_id_list"]
            seen[sample["doc_id"]] = row
        if len(seen) != counts["effective"]:
            raise UserError(f"{log}: holds {len(seen)} of the {counts['effective']} items of {task}; the log is cut off (is the disk full?); run it again")
        rows += [seen[doc] for doc in sorted(seen)]
    write_jsonl(folder / "items.jsonl", rows)
    return rows


def task_hash(rows: list[dict]) -> str:
    """One hash over the items, prompts and targets of a task, in the order of the items: equal only when both models were asked the very same."""
    return sha256("".join(row["hash"] for row in sorted(rows, key=lambda row: row["doc"])))[:16]


def by_task(rows: list[dict]) -> dict[str, list[dict]]:
    tasks = defaultdict(list)
    for row in rows:
        tasks[row["task"]].append(row)
    return {task: sorted(items, key=lambda row: row["doc"]) for task, items in sorted(tasks.items())}


# ---------------------------------------------------------------- scores


def scaled(x: np.ndarray | float, chance: float) -> np.ndarray:
    """0 at chance and below, 100 at 1 (leaderboard's documentation, "normalization")."""
    return 100 * np.clip((x - chance) / (1 - chance), 0, None)


@dataclass
class Part:
    """One accuracy inside a score: sums of hits and of items for each cluster of its stratum, and the chance level it is scaled by."""

    hits: np.ndarray  # (models, clusters)
    items: np.ndarray  # (clusters,)
    chance: float
    stratum: str  # parts of one stratum are resampled together

    def at(self, weights: np.ndarray) -> np.ndarray:
        """Scaled accuracy under each row of `weights` (resamples, clusters): (models, resamples)."""
        return scaled((self.hits @ weights.T) / (weights @ self.items), self.chance)


def parts_of(tasks: dict[str, list[list[dict]]], names: list[str], metric: str, chance: float) -> Part | None:
    """One pooled accuracy over the tasks `names`. `tasks` holds, for each task, the items of each model, in the same order."""
    rows = [pair for name in names for pair in zip(*tasks.get(name, ()), strict=True)]
    rows = [pair for pair in rows if all(metric in row for row in pair)]
    if not rows or any(name not in tasks for name in names):
        return None
    index = {key: i for i, key in enumerate(dict.fromkeys(pair[0]["cluster"] for pair in rows))}
    hits, items = np.zeros((len(rows[0]), len(index))), np.zeros(len(index))
    for pair in rows:
        at = index[pair[0]["cluster"]]
        values = [np.atleast_1d(np.asarray(row[metric], dtype=float)) for row in pair]
        hits[:, at] += [value.sum() for value in values]
        items[at] += len(values[0])
    return Part(hits, items, chance, names[0])


def resample(rng: np.random.Generator, clusters: int, resamples: int) -> np.ndarray:
    """How often each cluster was drawn in each bootstrap resample: (resamples, clusters), every row adding up to `clusters`."""
    weights = np.empty((resamples, clusters), np.float32)
    for at in range(0, resamples, 200):  # seven times faster than a multinomial draw, and small in memory
        rows = weights[at : at + 200]
        picked = rng.integers(clusters, size=rows.shape) + clusters * np.arange(len(rows))[:, None]
        rows[:] = np.bincount(picked.ravel(), minlength=rows.size).reshape(rows.shape)
    return weights


class Board:
    """The scores of several models that answered the same items.

    `models`: for each model its rows of items.jsonl, over equal items. Only columns whose tasks are all there are computed; the averages need all six.
    """

    def __init__(self, *models: list[dict]):
        grouped = [by_task(rows) for rows in models]
        tasks = {task: [group[task] for group in grouped] for task in grouped[0]}
        self.counts = {task: len(items[0]) for task, items in tasks.items()}

        def part(names: list[str], metric: str, chance: float = 0.0) -> Part | None:
            return parts_of(tasks, [f"leaderboard_{name}" for name in names], metric, chance)

        math, gpqa = [f"math_{name}_hard" for name in MATH], ["gpqa_main", "gpqa_extended", "gpqa_diamond"]
        found = {
            "IFEval": [part(["ifeval"], "prompt_level_strict_acc"), part(["ifeval"], "inst_level_strict_acc")],
            "BBH": [part([f"bbh_{name}"], "acc_norm", 1 / k) for name, k in CHOICES.items()],
            "MATH Lvl 5": [part(math, "exact_match_original")],
            MODERN: [part(math, "exact_match")],
            "GPQA": [part(gpqa, "acc_norm", 1 / 4)],
            "MuSR": [part([f"musr_{name}"], "acc_norm", 1 / k) for name, k in MUSR.items()],
            "MMLU-Pro": [part(["mmlu_pro"], "acc", 1 / 10)],
        }
        self.parts: dict[str, list[Part]] = {name: parts for name, parts in found.items() if all(parts)}

    def averages(self, scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if any(name not in scores for name in SIX):
            return scores
        mean = {AVERAGE: np.mean([scores[name] for name in SIX], axis=0), WITHOUT: np.mean([scores[name] for name in SIX[1:]], axis=0)}
        return {name: (scores | mean)[name] for name in COLUMNS if name in scores | mean}

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """{column: (models,)}, from 0 to 100."""
        return self.averages({name: np.mean([part.at(np.ones((1, len(part.items))))[:, 0] for part in parts], axis=0) for name, parts in self.parts.items()})

    @cached_property
    def resampled(self) -> dict[str, np.ndarray]:
        """{column: (models, RESAMPLES)}: the same clusters drawn for every model, so that differences are paired."""
        rng, drawn, columns = np.random.default_rng(SEED), {}, {}
        for name, parts in self.parts.items():
            total = 0
            for part in parts:
                n = len(part.items)
                if part.stratum not in drawn:  # both accuracies of IFEval, and both parsers of MATH, share their draws
                    drawn[part.stratum] = resample(rng, n, RESAMPLES)
                total = total + part.at(drawn[part.stratum])
            columns[name] = total / len(parts)
        return self.averages(columns)

    def sizes(self, column: str) -> tuple[int, int]:
        """(items, clusters) behind a column."""
        names = SIX if column == AVERAGE else SIX[1:] if column == WITHOUT else [column]
        strata = {part.stratum: part for name in names for part in reversed(self.parts[name])}  # of IFEval's two accuracies, the one by prompt
        return sum(int(part.items.sum()) for part in strata.values()), sum(len(part.items) for part in strata.values())


def interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def bounds(draws: np.ndarray, parts: list[Part], which: int) -> tuple[float, float]:
    """The interval of one model's score. Where all draws agree, as at 0 of 1,324, the bootstrap would claim certainty: Wilson's then, with clusters as trials."""
    if np.ptp(draws) or not parts:
        return interval(draws)
    shares = [wilson(part.hits[which].sum() / part.items.sum() * len(part.items), len(part.items)) for part in parts]
    low, high = np.mean([scaled(np.array(share), part.chance) for share, part in zip(shares, parts, strict=True)], axis=0)
    return float(low), float(high)


def compare(base: list[dict], tuned: list[dict]) -> dict[str, dict]:
    """For each column: base, tuned and difference as [value, low, high] (95 %, percentile bootstrap over clusters, paired), the share of resamples in
    which the tuned model is below the base, the smallest difference that this test would have seen (80 % power at 5 %: 2.8 standard errors), sizes."""
    board, table = Board(base, tuned), {}
    for name, (b, t) in board.scores.items():
        draws_b, draws_t = board.resampled[name]
        difference, parts = draws_t - draws_b, board.parts.get(name, [])
        items, clusters = board.sizes(name)
        sides = [[float(score), *bounds(draws, parts, i)] for i, (score, draws) in enumerate(((b, draws_b), (t, draws_t)))]
        table[name] = {
            "base": sides[0],
            "tuned": sides[1],
            "difference": [float(t - b), *(interval(difference) if np.ptp(difference) or not parts else newcombe(*sides))],
            "below zero": float((difference < 0).mean()),
            "detectable": float(2.8016 * difference.std()),  # 1.9600 + 0.8416, the normal quantiles of 97.5 % and 80 %
            "items": items,
            "clusters": clusters,
        }
    return table


def instructions(base: list[dict], tuned: list[dict]) -> list[dict]:
    """IFEval by kind of instruction: how often each model followed it, and the paired difference (bootstrap over prompts), most lost first."""
    pairs = list(zip(*(by_task(rows).get("leaderboard_ifeval", []) for rows in (base, tuned)), strict=True))
    if not pairs:
        return []
    names = sorted({name for row, _ in pairs for name in row["instructions"]})
    hits, given = np.zeros((2, len(names), len(pairs))), np.zeros((len(names), len(pairs)))
    for i, pair in enumerate(pairs):
        for which, row in enumerate(pair):
            for name, passed in zip(row["instructions"], row["inst_level_strict_acc"], strict=True):
                hits[which, names.index(name), i] += bool(passed)
        for name, count in Counter(pair[0]["instructions"]).items():
            given[names.index(name), i] += count
    weights = resample(np.random.default_rng(SEED), len(pairs), RESAMPLES)
    with np.errstate(invalid="ignore"):  # a resample may hold none of a rare instruction: left out of its interval
        shares = (hits @ weights.T) / (given @ weights.T)
    rows = []
    for j, name in enumerate(names):
        n, (b, t) = int(given[j].sum()), map(float, hits[:, j].sum(axis=1))
        draws = shares[1, j] - shares[0, j]
        low, high = interval(draws[~np.isnan(draws)])
        rows.append({"instruction": name, "n": n, "base": b / n, "tuned": t / n, "difference": [(t - b) / n, low, high]})
    return sorted(rows, key=lambda row: (row["difference"][0], row["instruction"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of one evaluated model, with items.jsonl or lm-eval's logs")
    folder = parser.parse_args().folder
    items = folder / "items.jsonl"
    board = Board(list(iter_jsonl(items, "items")) if items.exists() else distil(folder))
    for name, (score,) in board.scores.items():
        low, high = bounds(board.resampled[name][0], board.parts.get(name, []), 0)
        print(f"{name:26} {score:6.2f} [{low:.2f}, {high:.2f}]   {board.sizes(name)[0]:,} items")


if __name__ == "__main__":
    entry(main)
