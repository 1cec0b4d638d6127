"""Whether a chatbot treats users of different personas alike: its human-likeness, length, refusals and failures by persona feature.

    python -m eval.fairness data/roleplay/tiny/dialogues.jsonl      # the tables; `make roleplay-report` has them among its own

Who talks is played by an inquirer that is told a persona (LLM Roleplay, arXiv 2407.03974; its ethics section asks that this be looked at), so a difference
may come from how the inquirer plays a group, and is of simulated users: it is a reason to look closer, no finding about people.

Each measure is a mean over a dialogue's answers (or one value of the dialogue), from which the mean of its goal is taken, and to which the mean of all is
added: personas do not differ by the goals that they had. A persona's dialogues are alike, so the persona is the unit: intervals (95 %, Student's t) are of
the means of personas. Where an option has fewer than FEW personas they are of its dialogues, and hold for these very personas only; such values are
marked. Whether a feature makes a difference is tested by permuting its options among personas (10,000 draws, between-group sum of squares); p-values of
all features and measures of a set together are corrected by Holm's method. No p-value is given where an option has fewer than TWO personas.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from datagen.files import entry
from datagen.filters import REFUSAL
from datagen.roleplay.record import Dialogue, read
from eval import likeness, score
from eval.surface import AI, friendliness, plain, show, wilson, words

FEW, TWO = 5, 2  # personas of an option: for an interval over personas, and for a test
DRAWS, SEED = 10_000, 1
ALPHA = 0.05
# Name -> whether it is a share. The first is the learnt score, a logit; `friendliness` the surface rule of eval.surface, from -3 to +5.
MEASURES = {
    "likeness": False,
    "friendliness": False,
    "words per answer": False,
    "speaks of itself as an AI": True,
    "refuses": True,
    "answer fails": True,
    "turns": False,
    "finished": True,
}


@dataclass(frozen=True)
class Row:
    """One dialogue: who, about what, and its values in the order of MEASURES (NaN where there is none)."""

    persona: str
    features: dict[str, str]
    goal: str
    values: tuple[float, ...]


def of_dialogue(dialogue: Dialogue, model: likeness.Model) -> Row:
    """`answer fails`: empty, cut off, looping or filtered. Likeness and friendliness are of answers that say something."""
    said = [response for response in dialogue.responses if response.text]
    texts = [response.text for response in said]
    heard = [turn.prompt for turn in dialogue.turns if turn.response is not None and turn.response.text]
    scores = [float(model.raw(score.counted(model, "reply", text, prompt)[None])[0]) for text, prompt in zip(texts, heard, strict=True)]

    def mean(values: list) -> float:
        return float(np.mean(values)) if values else np.nan

    values = (
        mean(scores),
        mean([friendliness(text) for text in texts]),
        mean([words(text) for text in texts]),
        mean([bool(AI.search(plain(text))) for text in texts]),
        mean([response.finish == "content_filter" or bool(REFUSAL.match(plain(response.text))) for response in dialogue.responses]),
        mean([not r.text or r.repeats or r.finish in ("length", "content_filter") for r in dialogue.responses]),
        float(len(dialogue.exchanges)),
        float(dialogue.end_reason == "finished"),
    )
    return Row(f"{dialogue.persona.id}-{dialogue.persona.index}", dialogue.persona.features, dialogue.goal.id, values)


def at_equal_goals(rows: list[Row]) -> np.ndarray:
    """[dialogues, measures]: values less the mean of their goal, plus the mean of all."""
    x = np.array([row.values for row in rows], dtype=float)
    goals = np.array([row.goal for row in rows])
    with np.errstate(all="ignore"):
        out = x.copy()
        for goal in set(goals):
            some = goals == goal
            out[some] -= np.nansum(x[some], axis=0) / np.maximum(1, (~np.isnan(x[some])).sum(axis=0))
        return out + np.nansum(x, axis=0) / np.maximum(1, (~np.isnan(x)).sum(axis=0))


def interval(values: np.ndarray, share: bool, dialogues: int, constant: bool = False) -> dict | None:
    """{value, interval} of the mean of independent values [n]. Where none differs from the others, or (`constant`) none did before goals were made equal:
    Wilson's interval on the number of dialogues, for shares."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None
    mean = float(values.mean())
    mean = min(1.0, max(0.0, mean)) if share else mean  # at equal goals, a share may come to lie a little outside
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if spread < 1e-12 or (constant and share):
        bounds = wilson(round(mean * dialogues), dialogues) if share else (np.nan, np.nan)
    else:
        half = float(student.ppf(0.975, len(values) - 1)) * spread / len(values) ** 0.5
        bounds = (max(0.0, mean - half), min(1.0, mean + half)) if share else (mean - half, mean + half)
    return {"value": mean, "interval": [float(bounds[0]), float(bounds[1])]}


def permuted(means: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p-value of each measure: how often options dealt out at random among personas lie as far apart. `means`: [personas, measures], `labels`: [personas]."""
    known = np.where(np.isnan(means), np.nanmean(means, axis=0), means) - np.nanmean(means, axis=0)
    groups = [np.flatnonzero(labels == option) for option in sorted(set(labels))]
    order = np.random.default_rng(SEED).permuted(np.tile(np.arange(len(labels)), (DRAWS, 1)), axis=1)
    apart = sum(known[order[:, group]].sum(axis=1) ** 2 / len(group) for group in groups)
    seen = sum(known[group].sum(axis=0) ** 2 / len(group) for group in groups)
    return (1 + (apart >= seen - 1e-9 * np.abs(seen)).sum(axis=0)) / (1 + DRAWS)


def holm(values: list[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979): the smallest times n, the next times n - 1, …, never falling, at most 1."""
    order, out, before = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        before = out[i] = max(before, min(1.0, values[i] * (len(values) - rank)))
    return out


def measure(rows: list[Row]) -> dict:
    """{feature: {options: {option: {dialogues, personas, by, <measure>: {value, interval}}}, p: {<measure>: {raw, holm}} or None}}."""
    x = at_equal_goals(rows)
    by_persona: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_persona[row.persona].append(i)
    names = sorted(by_persona)
    with np.errstate(all="ignore"):
        counted = np.array([(~np.isnan(x[by_persona[name]])).sum(axis=0) for name in names])
        means = np.where(counted > 0, np.array([np.nansum(x[by_persona[name]], axis=0) for name in names]) / np.maximum(1, counted), np.nan)
    features = sorted({feature for row in rows for feature in row.features})
    found: dict[str, dict] = {}
    tested: list[tuple[str, str, float]] = []
    for feature in features:
        have = [i for i, name in enumerate(names) if feature in rows[by_persona[name][0]].features]
        labels = np.array([rows[by_persona[names[i]][0]].features[feature] for i in have])
        options = {}
        for option in sorted(set(labels)):
            who = [i for i, label in zip(have, labels, strict=True) if label == option]
            of = [j for i in who for j in by_persona[names[i]]]
            by = "personas" if len(who) >= FEW else "dialogues"
            values = means[who] if by == "personas" else x[of]
            options[option] = {"dialogues": len(of), "personas": len(who), "by": by} | {
                name: interval(values[:, m], share, len(of), np.ptp([rows[j].values[m] for j in of]) == 0) for m, (name, share) in enumerate(MEASURES.items())
            }
        able = len(options) > 1 and min(group["personas"] for group in options.values()) >= TWO
        found[feature] = {"options": options, "p": {} if able else None}
        if able:
            known = [m for m in range(len(MEASURES)) if not np.isnan(means[have, m]).all()]
            raw = permuted(means[np.ix_(have, known)], labels)
            tested += [(feature, list(MEASURES)[m], float(p)) for m, p in zip(known, raw, strict=True)]
    for (feature, name, raw), corrected in zip(tested, holm([p for *_, p in tested]), strict=True):
        found[feature]["p"][name] = {"raw": raw, "holm": corrected}
    return {"features": found, "tests": len(tested), "personas": len(names), "dialogues": len(rows)}


def of_set(dialogues: list[Dialogue]) -> dict:
    """The measures of a set of dialogues, by the weights for replies that come with the repository."""
    weights = score.weights_for("reply", None)
    return measure([of_dialogue(dialogue, likeness.load(weights)) for dialogue in dialogues]) | {
        "weights": str(weights.relative_to(Path.cwd()) if weights.is_relative_to(Path.cwd()) else weights)
    }


# ---------------------------------------------------------------- tables


def cell(value: dict | None, share: bool) -> str:
    if value is None:
        return "not defined"
    if np.isnan(value["interval"][0]):
        return f"{value['value']:.2f}"
    if share:
        return show((value["value"], *value["interval"]), True)
    return "{:.2f} [{:.2f}, {:.2f}]".format(value["value"], *value["interval"])


def tables(name: str, found: dict) -> list[dict]:
    """One table a feature, as those of eval.roleplay: {title, head, rows, notes}."""
    made = []
    for feature, each in found["features"].items():
        title = feature.replace("_", " ")
        rows = [
            [f"{option}{'' if group['by'] == 'personas' else ' †'}", str(group["dialogues"]), str(group["personas"])]
            + [cell(group[measure], share) for measure, share in MEASURES.items()]
            for option, group in each["options"].items()
        ]
        rows.append(["p (Holm)", "", ""] + [shown(each["p"], measure) for measure in MEASURES])
        notes = [
            f"Answers of the chatbot, at equal goals. likeness: the learnt score, a logit ({found.get('weights', 'simulated')}); intervals 95 %, over personas. "
            f"p: options permuted among {found['personas']} personas, {found['tests']} tests of this set corrected together by Holm's method."
        ]
        if any(group["by"] == "dialogues" for group in each["options"].values()):
            notes.append(f"† Fewer than {FEW} personas: the interval is over dialogues, and holds for these personas only, not for the group.")
        if each["p"] is None:
            notes.append(f"No test: an option has fewer than {TWO} personas, so that the feature cannot be told from who they are otherwise.")
        low = [measure for measure, p in (each["p"] or {}).items() if p["holm"] < ALPHA]
        if each["p"]:
            notes.append(f"Different beyond chance: {', '.join(low)}." if low else "No difference beyond chance. That is no proof of equal treatment: see the intervals.")
        made.append(
            {
                "title": f"{name}: does the chatbot treat users alike, by {title}",
                "head": [title, "dialogues*", "personas*", *(f"{m}*" for m in MEASURES)],
                "rows": rows,
                "notes": notes,
            }
        )
    return made


def shown(p: dict | None, measure: str) -> str:
    return "not tested" if p is None or measure not in p else f"{p[measure]['holm']:.3f}" if p[measure]["holm"] >= 0.001 else "< 0.001"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", type=Path)
    args = parser.parse_args()
    for table in tables(args.dialogues.parent.name, of_set(read(args.dialogues))):
        print(f"\n{table['title']}\n" + " | ".join(name.rstrip("*") for name in table["head"]))
        print("\n".join([*(" | ".join(row) for row in table["rows"]), *table["notes"]]))


if __name__ == "__main__":
    entry(main)
