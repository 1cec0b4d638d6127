"""How human-like texts are by the learnt score, trait by trait: of two models' answers, of the two sides of a preference set, or of any texts.

    python -m eval.score out/tiny/answers.jsonl                   # base against tuned; or: make score TEXTS=out/tiny/answers.jsonl
    python -m eval.score data/tiny/pairs.jsonl                    # what the chosen answers have that the rejected have not
    python -m eval.score texts.jsonl --text some-id               # one text explained in words
    python -m eval.score out/tiny/answers.jsonl --second data/tiny/second.json     # also by a scorer that made no pairs (eval.second)

Rows: answers (`base`, `tuned`), pairs (`prompt`, `chosen`, `rejected`), games (`datagen.traits.contrast`), or texts (`text`, or `transcript` with lines I: and W:).
Writes FILE-likeness.jsonl (each text: raw score, z, what each trait adds), .json, .html, .md, .svg and .png beside it.

The weights that come with the repository were learnt from 289 games of a three-party Turing test (people against GPT-4.5, GPT-4o, Llama-3.1-405B and ELIZA;
`eval/weights/`): `turn` from single messages, for replies; `dialogue` from whole transcripts. What they know is how people type in a short chat with a stranger
who asks whether they are people. A higher score is more of that, and no better answer; a model can be trained to please it.
"""

import argparse
from pathlib import Path

import numpy as np

from datagen.files import UserError, entry, read_text, sha256, templates, write_json, write_jsonl, write_text
from datagen.format import read_pairs
from datagen.traits.contrast import read, said
from datagen.traits.rubric import OURS
from datagen.traits.rubric import load as load_rubric
from eval import likeness, second, traits
from eval.compare import embedded
from eval.surface import bootstrap, wilson
from train.monitor import BLUE, VERMILLION, canvas, save

WEIGHTS = Path(__file__).parent / "weights"
FEW = 20


# ---------------------------------------------------------------- reading


def rows_of(path: Path) -> tuple[list[dict], tuple[str, ...], str]:
    """(rows of {id, <side>: text, context}, the names of the sides, first against second; reply or dialogue). Raises UserError."""
    rows, places = read_pairs(str(path))
    if not rows or not isinstance(rows[0], dict):
        raise UserError(f"{path}: holds no rows")
    if {"base", "tuned"} <= rows[0].keys():
        return [answer(row, place) for row, place in zip(rows, places, strict=True)], ("tuned", "base"), "reply"
    if {"text", "transcript"} & rows[0].keys():
        kind, key = ("dialogue", "transcript") if "transcript" in rows[0] else ("reply", "text")
        return [single(row, place, key) for row, place in zip(rows, places, strict=True)], ("text",), kind
    pairs = read(path)
    names = ("human", "ai") if pairs[0].kind == "dialogue" else ("chosen", "rejected")
    return [{"id": pair.id, names[0]: pair.human, names[1]: pair.other, "context": pair.context} for pair in pairs], names, pairs[0].kind


def answer(row: dict, place: str) -> dict:
    messages = row.get("messages")
    if not all(isinstance(row.get(side), str) for side in ("base", "tuned")):
        raise UserError(f"{place}: base and tuned are texts, from `make answers`")
    context = messages[-1].get("content") if isinstance(messages, list) and messages and isinstance(messages[-1], dict) else None
    return {"id": str(row.get("id", place)), "base": row["base"], "tuned": row["tuned"], "context": context if isinstance(context, str) else None}


def single(row: dict, place: str, key: str) -> dict:
    if not isinstance(row, dict) or not isinstance(row.get(key), str) or not row[key].strip():
        raise UserError(f"{place}: {key} is missing, empty or no text")
    context = row.get("prompt")
    return {"id": str(row.get("id", place)), "text": row[key], "context": context if isinstance(context, str) else None}


# ---------------------------------------------------------------- scores


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-likeness{suffix}")


def weights_for(kind: str, path: Path | None) -> Path:
    return path or WEIGHTS / ("dialogue.json" if kind == "dialogue" else "turn.json")


def counted(model: likeness.Model, kind: str, text: str, context: str | None, rated: dict[str, float] | None = None) -> np.ndarray:
    """[traits] of one text in the model's order: means over its turns where the weights are of turns. `rated`: a judge's ratings by the id of the trait.

    Raises UserError where the weights are of dialogues, and the text is none.
    """
    unit = model.about["unit"]
    if unit == "dialogue" and kind != "dialogue":
        raise UserError(
            "these weights were learnt from whole dialogues, and this text is one reply: traits that compare turns are missing; use weights of turns or replies"
        )
    whole = traits.counted(kind, text, context)
    turns = [traits.Counted([turn], [heard]) for turn, heard in zip(whole.spoken, whole.heard, strict=True)] if unit == "turn" and kind == "dialogue" else [whole]
    every = np.array([traits.values(turn) for turn in turns])
    defined = ~np.isnan(every)
    means = np.where(defined.any(axis=0), np.nansum(every, axis=0) / np.maximum(1, defined.sum(axis=0)), np.nan)
    found = dict(zip(traits.IDS, means, strict=True)) | (rated or {})
    return np.array([found[name] for name in model.ids])


def ratings_of(path: Path, ratings: Path, rubric: Path, names: tuple[str, ...]) -> tuple[dict[tuple[str, str], dict[str, float]], likeness.Judge]:
    """{(id, name of the side): ratings} of a contrastive set, and whose they are. Raises UserError for other files, which `make rate` does not read."""
    if names not in (("human", "ai"), ("chosen", "rejected")):
        raise UserError(f"{path}: `make rate` rates pairs and games; this file holds {', '.join(names)}, so leave --ratings out, or take weights without a judge")
    found, judge = likeness.rated_by_id(ratings, read(path), load_rubric(rubric))
    return {(id_, names[side == "other"]): values for (id_, side), values in found.items()}, judge


def named(place: Path) -> str:
    """A file as reports name it: from where the command ran."""
    return place.relative_to(Path.cwd()).as_posix() if place.is_absolute() and place.is_relative_to(Path.cwd()) else place.as_posix()


def matrix(model: likeness.Model, rows: list[dict], side: str, kind: str, rated: dict[tuple[str, str], dict[str, float]] | None = None) -> np.ndarray:
    """[rows, traits] of one side. `rated`: ratings by (id, side)."""
    return np.array([counted(model, kind, row[side], row["context"], rated[row["id"], side] if rated else None) for row in rows])


def explain(model: likeness.Model, x: np.ndarray, most: int = 5) -> list[str]:
    """One text in words: its score, and the traits that speak most for and against a person."""
    adds, raw = model.contributions(x[None])[0], float(model.raw(x[None])[0])
    whose = "the people" if raw > 0 else "the models"
    lines = [f"score {raw:+.2f} (logit; z {float(model.z(raw)):+.2f}): by these weights more like {whose} of the texts that they were learnt from"]
    for word, sign in (("for a person", 1), ("against", -1)):
        for i in [i for i in np.argsort(-sign * adds)[:most] if sign * adds[i] > 0.005]:
            beyond = " (counted as the outermost of the fitted texts)" if not model.low[i] <= x[i] <= model.high[i] else ""
            lines.append(f"  {word}: {model.about['traits'][model.ids[i]]['definition']}: {x[i]:.2f}, on average {model.mean[i]:.2f}; adds {adds[i]:+.2f}{beyond}")
    return lines


# ---------------------------------------------------------------- two sides


def estimate(values: np.ndarray) -> dict:
    """The mean with its 95 % bootstrap interval over rows."""
    low, high = bootstrap(values) if np.ptp(values) > 0 else (values.mean(),) * 2
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


def estimates(columns: np.ndarray) -> list[dict]:
    """As `estimate`, for every column of [rows, columns] at once, NaN left out: the same 2,000 draws of rows for all, which makes it fast enough for an audit."""
    n, known = len(columns), ~np.isnan(columns)
    draws = np.random.default_rng(1).multinomial(n, np.full(n, 1 / n), 2000).astype(float)
    filled, counts = np.where(known, columns, 0.0), draws @ known
    means = (draws @ filled) / np.where(counts > 0, counts, np.nan)
    low, high = np.nanpercentile(means, [2.5, 97.5], axis=0)
    values = filled.sum(axis=0) / known.sum(axis=0)
    flat = np.ptp(np.where(known, columns, values), axis=0) == 0  # rounding of a sum is no spread
    return [
        {"value": float(v), "low": float(v if same else a), "high": float(v if same else b), "n": int(k)}
        for v, a, b, k, same in zip(values, low, high, known.sum(axis=0), flat, strict=True)
    ]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> dict:
    """Spearman's rho over traits, with an interval by resampling traits."""
    from scipy.stats import rankdata

    def rho(places: np.ndarray) -> float:
        x, y = rankdata(a[places]), rankdata(b[places])
        return float(np.corrcoef(x, y)[0, 1]) if np.ptp(x) and np.ptp(y) else 0.0

    rng, n = np.random.default_rng(1), len(a)
    low, high = np.percentile([rho(rng.integers(0, n, n)) for _ in range(2000)], [2.5, 97.5])
    return {"value": rho(np.arange(n)), "low": float(low), "high": float(high), "n": n}


def at_equal_length(difference: np.ndarray, longer: np.ndarray) -> dict | None:
    """The difference in score where both texts are as long: the intercept of a regression on the difference in log words, by bootstrap over rows."""
    if np.ptp(longer) < 1e-9:
        return None
    rng, n = np.random.default_rng(1), len(difference)
    picks = np.vstack([np.arange(n), rng.integers(0, n, (2000, n))])
    x, y = longer[picks], difference[picks]
    spread = ((x - x.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    slope = ((x - x.mean(axis=1, keepdims=True)) * y).sum(axis=1) / np.where(spread > 0, spread, np.inf)
    ends = y.mean(axis=1) - slope * x.mean(axis=1)
    low, high = np.percentile(ends[1:], [2.5, 97.5])
    return {"value": float(ends[0]), "low": float(low), "high": float(high), "n": n, "slope": float(slope[0])}


def compare(model: likeness.Model, first: np.ndarray, second: np.ndarray) -> dict:
    """What the first side has over the second, in score and trait by trait. The contributions of the traits add up to the difference of the scores."""
    adds = model.contributions(first) - model.contributions(second)
    difference = adds.sum(axis=1)
    n = len(difference)
    higher = float((np.sign(difference.round(9)) + 1).sum() / 2)
    about = model.about["traits"]
    lengths = [i for i, name in enumerate(model.ids) if name in traits.LENGTH]
    words = model.ids.index("turn-words")
    rows, differing = [], first - second
    shown = [i for i in range(len(model.ids)) if not np.isnan(differing[:, i]).all()]
    measured = estimates(np.hstack([differing[:, shown], adds[:, shown]]))
    for place, i in enumerate(shown):
        name, both = model.ids[i], ~np.isnan(differing[:, i])
        rows.append(
            {
                "id": name,
                "definition": about[name]["definition"],
                "weight": float(model.weight[i]),
                "first": float(first[both, i].mean()),
                "second": float(second[both, i].mean()),
                "difference": measured[place],
                "adds": measured[len(shown) + place],
                "separation": traits.separation(first[:, i], second[:, i]),
                "among people": about[name]["separation"],
                "beyond": float(np.mean([(side[both, i] < model.low[i]) | (side[both, i] > model.high[i]) for side in (first, second)])),
            }
        )
    varying = [row for row in rows if row["among people"] is not None and (row["separation"] != 0.5 or row["among people"] != 0.5)]
    here, there = (np.array([row[key] for row in varying]) for key in ("separation", "among people"))
    plain = [row for row in varying if abs(row["separation"] - 0.5) >= 0.1]
    same = sum((row["separation"] > 0.5) == (row["among people"] > 0.5) and row["among people"] != 0.5 for row in plain)
    return {
        "n": n,
        "higher": {"value": higher / n, **dict(zip(("low", "high"), wilson(higher, n), strict=True)), "n": n},
        "difference": estimate(difference),
        "in sd": estimate(difference / model.spread),
        "length": estimate(adds[:, lengths].sum(axis=1)),
        "rest": estimate(np.delete(adds, lengths, axis=1).sum(axis=1)),
        "at equal length": at_equal_length(difference, first[:, words] - second[:, words]),
        "means": [float(model.raw(side).mean()) for side in (first, second)],
        "traits": sorted(rows, key=lambda row: -abs(row["adds"]["value"])),
        "as among people": rank_correlation(here, there) if len(varying) > 2 else None,
        "plain": {"n": len(plain), "same": same, **dict(zip(("low", "high"), wilson(same, len(plain)) if plain else (0.0, 1.0), strict=True))},
    }


# ---------------------------------------------------------------- the report


def with_interval(value: dict | None, form: str = "{:+.2f}") -> str:
    return "–" if value is None else f"{form.format(value['value'])} [{form.format(value['low'])}, {form.format(value['high'])}]"


def per_cent(value: dict) -> str:
    return f"{100 * value['value']:.1f} % [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def by_second(scorer: dict, rows: list[dict], names: tuple[str, str], kind: str, longer: np.ndarray) -> tuple[dict, np.ndarray]:
    """(what the second scorer says of two sides, its [rows, 2] scores). `longer` [rows]: the difference in log words."""
    scores = np.stack([second.raw(scorer, ["\n".join(said(kind, row[name])) for row in rows]) for name in names], axis=1)
    difference, n = scores[:, 0] - scores[:, 1], len(rows)
    higher = float((np.sign(difference.round(9)) + 1).sum() / 2)
    return {
        "n": n,
        "means": [float(mean) for mean in scores.mean(axis=0)],
        "difference": estimate(difference),
        "higher": {"value": higher / n, **dict(zip(("low", "high"), wilson(higher, n), strict=True)), "n": n},
        "at equal length": at_equal_length(difference, longer),
    }, scores


def second_table(found: dict) -> list[dict]:
    """The second scorer's table, where there is one."""
    other = found.get("second")
    if not other or "reason" in other:
        return []
    first, rest = found["sides"]
    auc = other["worth"]["auc"]
    return [
        {
            "title": "A second scorer, which made no pairs",
            "head": ["", "value*", "pairs*"],
            "rows": [
                [f"mean of {first} (logit)", f"{other['means'][0]:+.2f}", other["n"]],
                [f"mean of {rest} (logit)", f"{other['means'][1]:+.2f}", other["n"]],
                [f"{first} less {rest}", with_interval(other["difference"]), other["n"]],
                [f"{first} scores higher", per_cent(other["higher"]), other["n"]],
                ["the difference where both are as long (regression on log words)", with_interval(other["at equal length"]), other["n"]],
            ],
            "notes": [
                f"{other['file']}: runs of letters, fitted on {other['fitted on']['pairs']} pairs of {other['fitted on']['file']}, no surface trait among them; on"
                f" {auc['n']} held-out pairs of that set its AUC is {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]. Higher: more like the chosen answers there."
            ],
        }
    ]


def tables(found: dict) -> list[dict]:
    first, second = found["sides"]
    c, weights = found["compared"], found["weights"]
    overall = {
        "title": "The score",
        "head": ["", "value*", f"{'pairs'}*"],
        "rows": [
            [f"mean of {first} (logit)", f"{c['means'][0]:+.2f}", c["n"]],
            [f"mean of {second} (logit)", f"{c['means'][1]:+.2f}", c["n"]],
            [f"{first} less {second}", with_interval(c["difference"]), c["n"]],
            ["the same in standard deviations of the fitted texts", with_interval(c["in sd"]), c["n"]],
            [f"{first} scores higher", per_cent(c["higher"]), c["n"]],
            ["of the difference: traits of length", with_interval(c["length"]), c["n"]],
            ["of the difference: all other traits", with_interval(c["rest"]), c["n"]],
            ["the difference where both are as long (regression on log words)", with_interval(c["at equal length"]), c["n"]],
        ],
        "notes": [
            f"Weights: {weights['file']}, learnt from {weights['fitted on']['pairs']} pairs of {weights['fitted on']['file']} ({weights['unit']}), where they pick the"
            f" person in {per_cent(weights['pairwise'])} of {weights['pairwise']['n']} held-out groups."
            " Intervals: 95 %, by resampling rows. A trait outside what the fitted texts had counts as their 1st or 99th percentile.",
        ],
    }
    moved = [row for row in c["traits"] if row["weight"]]
    drift = {
        "title": f"What moved: {first} against {second}, trait by trait",
        "head": ["trait", f"{first}*", f"{second}*", "difference*", "adds to the score*", "outside the fitted range*"],
        "rows": [
            [
                row["definition"],
                f"{row['first']:.2f}",
                f"{row['second']:.2f}",
                with_interval(row["difference"]),
                with_interval(row["adds"]),
                f"{100 * row['beyond']:.0f} %",
            ]
            for row in moved
        ],
        "notes": ["Traits without a weight are in the .json. What the traits add sums to the difference of the scores."],
    }
    n_plain = c["plain"]["n"]
    people = {
        "title": f"Is what tells {first} from {second} what tells people from models?",
        "head": ["trait", f"more in {first}*", "more in people*", "agrees"],
        "rows": [
            [row["definition"], f"{row['separation']:.3f}", f"{row['among people']:.3f}", "yes" if (row["separation"] > 0.5) == (row["among people"] > 0.5) else "no"]
            for row in sorted(c["traits"], key=lambda row: -abs(row["separation"] - 0.5))[:20]
            if row["among people"] is not None
        ],
        "notes": [
            "Each number is the chance that a text of the one side has more of the trait than one of the other (AUC; 0.5: no difference); people against models: in the"
            " texts that the weights were learnt from. Those that differ most here come first.",
            *(
                [f"Over all {c['as among people']['n']} traits the two rank with rho = {with_interval(c['as among people'])} (Spearman; by resampling traits)."]
                if c["as among people"]
                else []
            ),
            *(
                [
                    f"Of {n_plain} traits that differ plainly here (AUC beyond 0.4 to 0.6), {c['plain']['same']} point the way in which people differ from models:"
                    f" {100 * c['plain']['same'] / n_plain:.0f} % [{100 * c['plain']['low']:.0f}, {100 * c['plain']['high']:.0f}]."
                ]
                if n_plain
                else []
            ),
        ],
    }
    return [overall, *second_table(found), drift, people]


def figure(found: dict, out: Path) -> str:
    """Draws what moved the score, and the two separations of each trait against each other; returns what is shown."""
    first, second = found["sides"]
    c = found["compared"]
    moved = [row for row in c["traits"] if row["weight"]][:14][::-1]
    fig, axes = canvas(1, 2, (10.5, 4.6))
    bars, dots = axes[0]
    for y, row in enumerate(moved):
        adds = row["adds"]
        bars.barh(y, adds["value"], color=BLUE if adds["value"] > 0 else VERMILLION, alpha=0.75, height=0.7)
        bars.plot([adds["low"], adds["high"]], [y, y], color="#333333", lw=1)
    bars.axvline(0, color="#777777", lw=0.8)
    bars.set_yticks(range(len(moved)), [row["id"] for row in moved])
    bars.set_xlabel(f"adds to the score of {first} against {second} (logit, 95 %)")
    bars.set_title("what moved the score", loc="left", fontsize=10)
    known = [row for row in c["traits"] if row["among people"] is not None]
    agree = [(row["separation"] - 0.5) * (row["among people"] - 0.5) >= 0 for row in known]
    for flag, colour in ((True, BLUE), (False, VERMILLION)):
        mine = [row for row, same in zip(known, agree, strict=True) if same == flag]
        dots.plot([row["among people"] for row in mine], [row["separation"] for row in mine], "o", color=colour, ms=4, alpha=0.8)
    named, last = sorted(sorted(known, key=lambda row: -abs(row["separation"] - 0.5))[:8], key=lambda row: row["separation"]), -1.0
    for row in named:
        last = max(last + 0.045, row["separation"])  # names of neighbours would lie on each other
        dots.annotate(row["id"], (row["among people"], row["separation"]), (row["among people"] + 0.02, last), fontsize=7, va="center")
    for line in (dots.axvline, dots.axhline):
        line(0.5, color="#777777", lw=0.8)
    dots.set_xlim(0.15, 0.85)
    dots.set_ylim(-0.03, 1.2)
    dots.set_xlabel("more in people than in models (AUC)")
    dots.set_ylabel(f"more in {first} than in {second} (AUC)")
    dots.set_title("each trait; blue: the same way", loc="left", fontsize=10)
    save(fig, out)
    return f"Left: what each trait adds to the score of {first} against {second}. Right: how each trait tells them apart, against how it tells people from models"


def report(path: Path, weights: Path | None = None, other: Path | None = None, ratings: Path | None = None, rubric: Path = OURS) -> dict:
    """Scores all texts of a file, by a second scorer `other` too, and writes everything beside it. Returns the summary."""
    rows, names, kind = rows_of(path)
    place = weights_for(kind, weights)
    rated, judge = ratings_of(path, ratings, rubric, names) if ratings else ({}, None)
    model = likeness.load(place, judge)
    about = model.about
    sides = {name: matrix(model, rows, name, kind, rated) for name in names}
    raw = {name: model.raw(x) for name, x in sides.items()}
    adds = {name: model.contributions(x) for name, x in sides.items()}
    also, again = None, {name: [None] * len(rows) for name in names}
    if other and len(names) == 2:
        scorer = second.load(other)
        also = {"file": other.as_posix(), "sha256": sha256(read_text(other, "a second scorer"))} | {k: scorer[k] for k in ("fitted on", "worth", "reason") if k in scorer}
        if "reason" not in scorer:
            words = model.ids.index("turn-words")
            measured, scores = by_second(scorer, rows, names, kind, sides[names[0]][:, words] - sides[names[1]][:, words])
            also, again = also | measured, {name: scores[:, i].tolist() for i, name in enumerate(names)}
    write_jsonl(
        beside(path, ".jsonl"),
        [
            {"id": row["id"], "side": name, "raw": float(raw[name][i]), "z": float(model.z(raw[name][i]))}
            | ({"second": again[name][i]} if again[name][i] is not None else {})
            | {"adds": {trait: round(float(adds[name][i, j]), 4) for j, trait in enumerate(model.ids) if model.weight[j]}}
            for i, row in enumerate(rows)
            for name in names
        ],
    )
    found = {
        "file": path.as_posix(),
        "sha256": sha256(read_text(path, "texts")),
        "weights": {"file": named(place), "sha256": sha256(read_text(place, "weights")), "unit": about["unit"], "fitted on": about["fitted on"]}
        | {"pairwise": about["shown"]["surface + judge" if judge else likeness.SURFACE]["pairwise"]},
        "texts": len(rows),
        "sides": list(names),
        "mean": {name: estimate(values) for name, values in raw.items()},
    }
    if also:
        found["second"] = also
    if len(names) == 2 and len(rows) >= FEW:
        found["compared"] = compare(model, sides[names[0]], sides[names[1]])
        alt = figure(found, beside(path, ""))
        values = {"found": found, "tables": tables(found), "alt": alt}
        svg = beside(path, ".svg")
        for html in (False, True):
            page = templates(Path(__file__).parent, html).get_template(f"likeness.{'html' if html else 'md'}.j2")
            write_text(beside(path, f".{'html' if html else 'md'}"), page.render(**values, picture=embedded(read_text(svg, "a figure")) if html else svg.name))
    write_json(beside(path, ".json"), found)
    return found


def one(path: Path, weights: Path | None, wanted: str) -> list[str]:
    rows, names, kind = rows_of(path)
    model = likeness.load(weights_for(kind, weights))
    if not (mine := [row for row in rows if row["id"] == wanted]):
        raise UserError(f"{path}: has no text with the id {wanted!r}; the first is {rows[0]['id']!r}")
    return [
        line for row in mine for name in names for line in [f"{wanted} ({name}): {row[name][:200]!r}", *explain(model, counted(model, kind, row[name], row["context"]))]
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--weights", type=Path, help="from python -m eval.likeness … --save; default: eval/weights/")
    parser.add_argument("--second", type=Path, help="a second scorer, from python -m eval.second")
    parser.add_argument("--text", help="explain the text with this id, and write nothing")
    parser.add_argument("--ratings", type=Path, help="ratings of these texts, from datagen.traits.rate, where the weights have a judge")
    parser.add_argument("--rubric", type=Path, default=OURS, help="what RATINGS were made on")
    args = parser.parse_args()
    if args.text is not None:
        print("\n".join(one(args.texts, args.weights, args.text)))
        return
    found = report(args.texts, args.weights, args.second, args.ratings, args.rubric)
    if found["texts"] == 1 and not args.ratings:  # one text has no interval, but reasons
        print("\n".join(one(args.texts, args.weights, rows_of(args.texts)[0][0]["id"])))
    for name, value in found["mean"].items() if found["texts"] > 1 else ():
        print(f"{name:10} {with_interval(value)}   mean score of {value['n']} texts (logit; weights {found['weights']['file']})")
    if c := found.get("compared"):
        first = found["sides"][0]
        print(
            f"{first} scores higher in {per_cent(c['higher'])} of {c['n']}; by {with_interval(c['difference'])}, of which traits of length {with_interval(c['length'])}"
        )
        for row in c["traits"][:8]:
            print(f"  {row['id']:20} {row['first']:8.2f} against {row['second']:8.2f}   adds {with_interval(row['adds'])}")
        if (other := found.get("second")) and "reason" not in other:
            print(f"second scorer ({other['file']}): {first} higher in {per_cent(other['higher'])} of {other['n']}; by {with_interval(other['difference'])}")
        print(f"-> {beside(args.texts, '.html')}, .md, .json, .jsonl, .svg")
    else:
        print(f"-> {beside(args.texts, '.jsonl')} and .json{'' if len(found['sides']) == 1 else f'; a comparison needs {FEW} rows'}")


if __name__ == "__main__":
    entry(main)
