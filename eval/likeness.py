"""The human-likeness score: weights of traits, learnt from pairs of texts of which one is a person's (HAL, arXiv 2601.02813), and what they are worth.

    python -m eval.likeness games.jsonl                                # cross-validated; or: make traits-eval FIT=games.jsonl
    python -m eval.likeness games.jsonl --test other.jsonl             # fitted on all of the first, tried on the second
    python -m eval.likeness games.jsonl --unit turn --save w.json      # also keep the weights, for `make score`

The files are contrastive sets (`datagen.traits.contrast`). Traits are the surface traits of `eval.traits`, which need no judge, and a judge's ratings where there
are some: in the games themselves (`ratings`: a list for either side, bound to its judge and to the places in that list) or in a file of `datagen.traits.rate`.

The score is a logit, w . x + b, by L1 logistic regression (liblinear, as HAL), on standardised traits. HAL's C is 1; 0.1 picks the person as often (of 289 real
games 97 %) with half the traits, whose signs hold from one bootstrap to the next. Folds never split a group (a game, a question), and
everything that is learnt from data, standardisation and selection by the L1 penalty included, is learnt inside the fold. A trait that is missing adds
nothing. Values beyond the 1st and 99th percentile of the fitted texts count as those: the score rewards nothing that it has not seen.

Weights are stored by the id of their trait, with the hash of its definition, of the whole file, and for ratings of judge, rubric and prompt. A file in which
any of these differs is refused: HAL's published weights stand on the wrong statements, and pick the person in 62 % of its games instead of 83 to 86 %.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datagen.files import UserError, canonical, entry, read_json, read_jsonl, sha256, write_json
from datagen.format import read_pairs
from datagen.traits.contrast import Pair, read
from datagen.traits.rubric import OURS, Rubric
from datagen.traits.rubric import load as load_rubric
from eval import traits
from eval.surface import wilson

C, SEEDS, FOLDS, RESAMPLES = 0.1, 20, 10, 200
FORM = "human-likeness weights, 1"
SURFACE = "surface"

# ---------------------------------------------------------------- what is fitted


@dataclass(frozen=True)
class Judge:
    """Who rated, and by what: weights of one judge, rubric or prompt say nothing of another's ratings."""

    name: str
    rubric: str  # the hash of the rubric; of the places in a list, where the statements are not known
    prompt: str | None

    def __str__(self) -> str:
        return f"{self.name} (rubric {self.rubric[:16]}, prompt {(self.prompt or 'not known')[:12]})"


@dataclass(frozen=True)
class Texts:
    """Rows of traits: a row is a dialogue, a reply or a turn; several rows of one side of a pair are averaged when that side is scored."""

    ids: tuple[str, ...]  # of the columns, sorted: no order that a file came in can change a fit
    x: np.ndarray  # [rows, traits], NaN where missing
    y: np.ndarray  # [rows], 1 where a person (the human-like side) wrote it
    pair: np.ndarray  # [rows], the number of the pair
    group: np.ndarray  # [pairs]
    source: np.ndarray  # [pairs], the model of the other side, or ""
    unit: str  # dialogue, reply or turn
    judge: Judge | None

    def only(self, ids: Sequence[str]) -> "Texts":
        places = [self.ids.index(name) for name in sorted(ids)]
        return Texts(tuple(sorted(ids)), self.x[:, places], self.y, self.pair, self.group, self.source, self.unit, self.judge)

    @property
    def surface(self) -> list[str]:
        return [name for name in self.ids if name in traits.BY_ID]

    @property
    def rated(self) -> list[str]:
        return [name for name in self.ids if name not in traits.BY_ID]


def rows_of(pair: Pair, side: str, unit: str) -> list[list[float]]:
    whole = traits.counted(pair.kind, getattr(pair, side), pair.context)
    if unit != "turn" or pair.kind == "reply":
        return [traits.values(whole)]
    return [traits.values(traits.Counted([turn], [heard])) for turn, heard in zip(whole.spoken, whole.heard, strict=True)]


def texts(path: str, unit: str | None = None, ratings: Path | None = None, rubric: Rubric | None = None) -> Texts:
    """Reads a contrastive set and counts it. `unit` "turn" takes every turn of a dialogue for a text of its own.

    Raises UserError where dialogues and replies are mixed, and where ratings do not fit the texts.
    """
    pairs = read(path)
    kinds = sorted({pair.kind for pair in pairs})
    if len(kinds) > 1:
        raise UserError(f"{path}: holds both games and replies; put them into files of their own")
    unit = unit or kinds[0]
    if unit != "turn" and unit != kinds[0]:
        raise UserError(f"{path}: holds {kinds[0]} pairs, so --unit {unit} cannot be; known here are {kinds[0]} and turn")
    if ratings and unit != kinds[0]:
        raise UserError(f"{ratings}: rates whole dialogues, and --unit turn takes them apart; leave one of them out")
    rated, judge = read_ratings(path, pairs, ratings, rubric) if unit == kinds[0] else ({}, None)
    x, y, number = [], [], []
    for i, pair in enumerate(pairs):
        for side, label in (("human", 1), ("other", 0)):
            rows = rows_of(pair, side, unit)
            x += rows
            y += [label] * len(rows)
            number += [i] * len(rows)
    x = np.array(x, dtype=float)
    ids = traits.IDS
    if rated:
        names = sorted(next(iter(rated.values())))
        x = np.hstack([x, [[rated[pairs[i].id, "human" if label else "other"][name] for name in names] for i, label in zip(number, y, strict=True)]])
        ids = (*ids, *names)
    order = sorted(range(len(ids)), key=ids.__getitem__)
    group = np.unique([pair.group for pair in pairs], return_inverse=True)[1]
    source = np.array([pair.source or "" for pair in pairs])
    return Texts(tuple(ids[i] for i in order), x[:, order], np.array(y), np.array(number), group, source, unit, judge)


def read_ratings(path: str, pairs: list[Pair], ratings: Path | None, rubric: Rubric | None) -> tuple[dict[tuple[str, str], dict[str, float]], Judge | None]:
    """(pair id, side) -> {trait id: rating, NaN where missing}, and the judge; empty where there are none. Raises UserError."""
    if ratings is not None:
        return rated_by_id(ratings, pairs, rubric)
    rows = [row.get("ratings") for row in read_pairs(str(path))[0]]
    if not any(rows):
        return {}, None
    found, judges, sizes = {}, set(), set()
    for i, (pair, row) in enumerate(zip(pairs, rows, strict=True), 1):
        if not row:
            raise UserError(f"{path}: row {i} has no ratings, and others have; rate all, or take them out of all")
        if not isinstance(row, dict) or not all(isinstance(row.get(key), list) for key in ("human", "ai")) or not isinstance(row.get("judge"), str):
            raise UserError(f"{path}: row {i}: ratings are {{judge, human: [1 to 5, …], ai: […]}}")
        if judges and row["judge"] not in judges:
            raise UserError(f"{path}: row {i} was rated by {row['judge']}, the rows before it by {judges.pop()}; ratings of one judge are wanted")
        judges.add(row["judge"])
        for side, key in (("human", "human"), ("other", "ai")):
            if bad := [value for value in row[key] if value is not None and (isinstance(value, bool) or value not in (1, 2, 3, 4, 5))]:
                raise UserError(f"{path}: row {i}: ratings are whole numbers from 1 to 5, or null; got {str(bad[0])[:40]!r}")
            if sizes and len(row[key]) not in sizes:
                raise UserError(
                    f"{path}: row {i}: {len(row[key])} ratings of {key}, elsewhere {sizes.pop()}; places in a list mean one thing only if all lists are as long"
                )
            sizes.add(len(row[key]))
            found[pair.id, side] = {f"place-{n:02d}": math.nan if value is None else float(value) for n, value in enumerate(row[key], 1)}
    return found, Judge(judges.pop(), f"places 1 to {sizes.pop()}", None)


def rated_by_id(path: Path, pairs: list[Pair], rubric: Rubric) -> tuple[dict[tuple[str, str], dict[str, float]], Judge]:
    """The ratings of a file of `datagen.traits.rate`. Raises UserError where a text has none, or was another one when it was rated."""
    from datagen.traits import rate

    found, by = rate.read(path, rubric)
    rated = {(row["id"], row["side"]): row["text_sha256"] for row in read_jsonl(path)}
    result = {}
    for pair in pairs:
        for side in ("human", "other"):
            if (pair.id, side) not in found:
                raise UserError(f"{path}: has no rating of {pair.id} ({side}); run `make rate` on this set")
            if rated[pair.id, side] != sha256(getattr(pair, side)):
                raise UserError(f"{path}: {pair.id} ({side}) was rated with another text; run `make rate` on this set")
            result[pair.id, side] = {name: math.nan if value is None else float(value) for name, value in found[pair.id, side].items()}
    return result, Judge(by["judge"], by["rubric_sha256"], by["prompt_sha256"])


# ---------------------------------------------------------------- the fit


@dataclass(frozen=True)
class Model:
    """A fitted score. All arrays are [traits], in the order of `ids`; weights are per standard deviation."""

    ids: tuple[str, ...]
    weight: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    low: np.ndarray
    high: np.ndarray
    intercept: float
    centre: float = 0.0  # mean and standard deviation of the raw score of the fitted texts
    spread: float = 1.0
    about: dict = field(default_factory=dict)

    def contributions(self, x: np.ndarray) -> np.ndarray:
        """[rows, traits]: what each trait adds to the raw score of a text, against the mean of the fitted texts. Sum plus intercept is the raw score."""
        return np.nan_to_num((np.clip(x, self.low, self.high) - self.mean) / self.sd) * self.weight

    def raw(self, x: np.ndarray) -> np.ndarray:
        """[rows] logits: over 0, more like the people of the fitted texts than like the models."""
        return self.contributions(x).sum(axis=1) + self.intercept

    def z(self, raw: np.ndarray) -> np.ndarray:
        return (raw - self.centre) / self.spread


def fit(data: Texts, rows: np.ndarray | slice = slice(None)) -> Model:
    """L1 logistic regression on the standardised, clipped traits of these rows; sides of a pair weigh the same however many turns they have."""
    from sklearn.linear_model import LogisticRegression

    x, y, pair = data.x[rows], data.y[rows], data.pair[rows]
    with np.errstate(all="ignore"):
        seen = ~np.isnan(x).all(axis=0)
        low, high = (np.where(seen, np.nanpercentile(np.where(seen, x, 0), q, axis=0), 0.0) for q in (1, 99))
        inside = np.clip(x, low, high)
        mean, sd = (np.where(seen, of(np.where(seen, inside, 0), axis=0), 0.0) for of in (np.nanmean, np.nanstd))
    sd = np.where(sd > 1e-12, sd, np.inf)
    side = pair * 2 + y
    share = 1 / np.bincount(side)[side]
    model = LogisticRegression(C=C, l1_ratio=1, solver="liblinear", random_state=0, intercept_scaling=10, tol=1e-5, max_iter=1000)
    model.fit(np.nan_to_num((inside - mean) / sd), y, sample_weight=share)
    found = Model(data.ids, model.coef_[0], mean, sd, low, high, float(model.intercept_[0]))
    raw = found.raw(x)
    return Model(found.ids, found.weight, mean, sd, low, high, found.intercept, float(raw.mean()), float(raw.std()) or 1.0)


def by_side(data: Texts, raw: np.ndarray) -> np.ndarray:
    """[pairs, 2]: the mean raw score of the rows of the human-like and of the other side."""
    side = data.pair * 2 + (1 - data.y)
    return (np.bincount(side, raw) / np.bincount(side)).reshape(-1, 2)


def folds(group: np.ndarray, seed: int, k: int = FOLDS) -> np.ndarray:
    """[pairs]: the fold of each pair; pairs of one group share it."""
    n = int(group.max()) + 1
    order = np.random.default_rng(seed).permutation(n)
    return (np.argsort(order) * min(k, n) // n)[group]


def cross_validated(data: Texts, score: Callable[[Texts, np.ndarray], np.ndarray], seeds: int = SEEDS) -> np.ndarray:
    """[seeds, pairs, 2]: raw scores of sides that the score was not fitted on. `score(data, train rows)` gives the raw scores of all rows."""
    result = []
    for seed in range(seeds):
        fold, sides = folds(data.group, seed), np.zeros((len(data.group), 2))
        for k in range(fold.max() + 1):
            sides[fold == k] = by_side(data, score(data, fold[data.pair] != k))[fold == k]
        result.append(sides)
    return np.array(result)


def fitted(data: Texts, train: np.ndarray) -> np.ndarray:
    return fit(data, train).raw(data.x)


def mean_rating(data: Texts, _: np.ndarray) -> np.ndarray:
    return np.nanmean(data.x, axis=1)


def share(hits: np.ndarray, group: np.ndarray) -> dict:
    """A share with Wilson's interval, which counts groups: `hits` [pairs] in 0 to 1."""
    each = np.bincount(group, hits) / np.bincount(group)
    n = len(each)
    low, high = wilson(float(each.sum()), n)
    return {"value": float(each.mean()), "low": low, "high": high, "n": n}


def measures(sides: np.ndarray, group: np.ndarray) -> dict:
    """Of [seeds, pairs, 2] scores: pairwise accuracy (the person's side is higher; a tie counts half), accuracy at 0 and AUC, means over the seeds."""
    higher = (np.sign((sides[..., 0] - sides[..., 1]).round(9)) + 1) / 2
    right = ((sides[..., 0] > 0).astype(float) + (sides[..., 1] < 0)) / 2
    auc = float(np.mean([traits.separation(one[:, 0], one[:, 1]) for one in sides]))
    return {"pairwise": share(higher.mean(axis=0), group), "accuracy": share(right.mean(axis=0), group), "auc": auc}


def scorers(data: Texts) -> dict[str, tuple[Texts, Callable]]:
    """All that the score is held against, cheapest first; what needs ratings is left out where there are none."""
    known = {"length alone": (data.only([name for name in data.surface if name in traits.LENGTH]), fitted), SURFACE: (data.only(data.surface), fitted)}
    if data.rated:
        known |= {"mean rating, unweighted": (data.only(data.rated), mean_rating), "judge": (data.only(data.rated), fitted), "surface + judge": (data, fitted)}
    return known


def stability(data: Texts, model: Model, resamples: int = RESAMPLES) -> dict[str, dict[str, float]]:
    """By trait, over bootstraps of groups: how often it is used at all, and how often with the sign that it has."""
    rng, n = np.random.default_rng(1), int(data.group.max()) + 1
    members = [np.flatnonzero(data.group[data.pair] == g) for g in range(n)]
    signs = []
    for _ in range(resamples):
        signs.append(np.sign(fit(data, np.concatenate([members[g] for g in rng.integers(0, n, n)])).weight))
    signs = np.array(signs)
    return {
        name: {"used": float((signs[:, i] != 0).mean()), "same sign": float((signs[:, i] == np.sign(model.weight[i])).mean())}
        for i, name in enumerate(data.ids)
        if model.weight[i]
    }


def without_each_source(data: Texts) -> dict[str, dict]:
    """Pairwise accuracy on each model that the score was not fitted on, where several are named."""
    found = {}
    names = sorted(set(data.source.tolist()))
    for name in names if len(names) > 1 else []:
        out = data.source == name
        sides = by_side(data, fitted(data, ~out[data.pair]))[out]
        found[name or "not named"] = measures(sides[None], np.unique(data.group[out], return_inverse=True)[1])["pairwise"]
    return found


# ---------------------------------------------------------------- the file of weights


def definition(name: str, data: Texts, statements: dict[str, str]) -> str:
    if name in traits.BY_ID:
        return traits.BY_ID[name].definition
    return statements.get(name) or f"{name.replace('-', ' ')} in a list of ratings by {data.judge.name}"


def save(path: Path, source: str, data: Texts, model: Model, found: dict, statements: dict[str, str] | None = None) -> None:
    """Writes weights with all that `load` checks, and what they were worth when they were fitted."""
    person = data.y == 1
    kept = stability(data, model)
    value = {
        "form": FORM,
        "unit": data.unit,
        "fitted on": {"file": Path(source).name, "sha256": sha256(canonical(read_pairs(source)[0])), "pairs": len(data.group), "groups": int(data.group.max()) + 1},
        "surface": traits.fingerprint() if data.surface else None,
        "judge": vars(data.judge) if data.rated else None,
        "intercept": model.intercept,
        "centre": model.centre,
        "spread": model.spread,
        "shown": found,
        "traits": {
            name: {
                "definition": definition(name, data, statements or {}),
                "weight": float(model.weight[i]),
                "mean": float(model.mean[i]),
                "sd": float(model.sd[i]) if math.isfinite(model.sd[i]) else 0.0,
                "low": float(model.low[i]),
                "high": float(model.high[i]),
                "separation": separated(data.x[person, i], data.x[~person, i]),
            }
            | kept.get(name, {})
            for i, name in enumerate(data.ids)
        },
    }
    write_json(path, value | {"sha256": sha256(canonical(value))})


def separated(human: np.ndarray, other: np.ndarray) -> float | None:
    found = traits.separation(human, other)
    return None if math.isnan(found) else found


def load(path: Path, judge: Judge | None = None) -> Model:
    """The weights of a file. `judge`: who rated the texts that are to be scored.

    Raises UserError where the file was changed, or was fitted on other traits, other statements or other ratings.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("form") != FORM:
        raise UserError(f"{path}: not a file of weights ({FORM}); fit one: python -m eval.likeness PAIRS --save {path}")
    told = value.pop("sha256", None)
    again = "fit them again: python -m eval.likeness PAIRS --save FILE"
    if told != sha256(canonical(value)):
        raise UserError(f"{path}: was changed after it was written, so weights may stand on other traits than they were fitted on; {again}")
    named = value["traits"]
    gone = sorted(name for name in named if name in traits.BY_ID and named[name]["definition"] != traits.BY_ID[name].definition)
    if gone or (value["surface"] and value["surface"] != traits.fingerprint()):
        raise UserError(f"{path}: fitted on other surface traits than this version counts{f' ({gone[0]} …)' if gone else ''}; {again}")
    if unknown := sorted(name for name in named if name not in traits.BY_ID and not value["judge"]):
        raise UserError(f"{path}: has weights of {unknown[0]}, which no surface trait is called; {again}")
    if value["judge"] and Judge(**value["judge"]) != judge:
        raise UserError(
            f"{path}: needs ratings by {Judge(**value['judge'])}; {f'these are by {judge}' if judge else 'there are none'}; weights say nothing of other judges"
        )
    ids = tuple(sorted(named))

    def column(key: str) -> np.ndarray:
        return np.array([named[name][key] for name in ids], dtype=float)

    sd = column("sd")
    arrays = [column("weight"), column("mean"), np.where(sd > 0, sd, np.inf), column("low"), column("high")]
    return Model(ids, *arrays, value["intercept"], value["centre"], value["spread"], value)


# ---------------------------------------------------------------- what it is worth


def together(data: Texts, test: Texts, names: tuple[str, str]) -> tuple[Texts, Texts]:
    """Both with the traits that are defined in both. Raises UserError where their ratings are of different judges."""
    if data.rated and test.rated and data.judge != test.judge:
        raise UserError(f"{names[0]} was rated by {data.judge}, {names[1]} by {test.judge}; weights do not carry over between judges")
    ids = [name for name in data.ids if name in test.ids and not (np.isnan(data.only([name]).x).all() or np.isnan(test.only([name]).x).all())]
    return data.only(ids), test.only(ids)


def without_shared(data: Texts, pairs: list[Pair], test: list[Pair]) -> tuple[Texts, int]:
    """What is left of the first set without the groups that the second set holds, too, and how many pairs that leaves out."""
    seen = {text for pair in test for text in (pair.human, pair.other)} | {pair.id for pair in test if pair.kind == "dialogue"}
    bad = {pair.group for pair in pairs if {pair.human, pair.other} & seen or (pair.kind == "dialogue" and pair.id in seen)}
    out = np.array([pair.group in bad for pair in pairs])
    if out.all():
        raise UserError("every pair of the first file stands in the second, too; nothing is left to fit on")
    keep = ~out[data.pair]
    number = np.cumsum(~out) - 1
    group = np.unique(data.group[~out], return_inverse=True)[1]
    return Texts(data.ids, data.x[keep], data.y[keep], number[data.pair[keep]], group, data.source[~out], data.unit, data.judge), int(out.sum())


def shown(value: dict) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def table(rows: dict[str, dict]) -> list[str]:
    head = f"{'':26}{'picks the person':>24}{'accuracy at 0':>26}{'AUC':>8}"
    return [
        head,
        *(f"{name:26}{shown(row['pairwise']):>24}{shown(row['accuracy']) if 'unweighted' not in name else '':>26}{row['auc']:>8.3f}" for name, row in rows.items()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fit", help="the contrastive set to learn from")
    parser.add_argument("--test", help="another one, to try what was learnt; without it, the first is cross-validated")
    parser.add_argument("--ratings", type=Path, help="ratings of FIT by a judge, from datagen.traits.rate")
    parser.add_argument("--rubric", type=Path, default=OURS, help="what RATINGS were made on")
    parser.add_argument("--test-ratings", type=Path, help="ratings of TEST by the same judge")
    parser.add_argument("--unit", choices=["turn"], help="take every turn of a dialogue for a text: weights that fit single replies")
    parser.add_argument("--save", type=Path, help="where to keep the weights")
    args = parser.parse_args()
    rubric = load_rubric(args.rubric) if args.ratings else None
    statements = rubric.statements if rubric else {}
    data = texts(args.fit, args.unit, args.ratings, rubric)
    if int(data.group.max()) + 1 < FOLDS:
        raise UserError(f"{args.fit}: {int(data.group.max()) + 1} groups are too few to learn from; at least {FOLDS} are needed")
    if args.test:
        test = texts(args.test, args.unit, args.test_ratings, rubric)
        data, left = without_shared(data, read(args.fit), read(args.test))
        data, test = together(data, test, (args.fit, args.test))
        best = "surface + judge" if data.rated else SURFACE
        if left:
            print(f"{left} pairs of {args.fit} stand in {args.test}, too: left out of the fit")
        print(f"fitted on {len(data.group)} pairs of {args.fit}, tried on {len(test.group)} of {args.test} ({len(data.ids)} traits defined in both)")
        rows = {}
        for name, (view, score) in scorers(data).items():
            seen = test.only(view.ids)
            raw = fit(view).raw(seen.x) if score is fitted else score(seen, np.array([]))
            rows[name] = measures(by_side(seen, raw)[None], test.group)
        print("\n".join(table(rows)))
    else:
        best = "surface + judge" if data.rated else SURFACE
        rows = {name: measures(cross_validated(view, score, SEEDS if score is fitted else 1), data.group) for name, (view, score) in scorers(data).items()}
        print(f"{len(data.group)} pairs, {int(data.group.max()) + 1} groups of {args.fit}; {FOLDS} folds, {SEEDS} seeds; 95 % intervals (Wilson, counting groups)")
        print("\n".join(table(rows)))
        if apart := without_each_source(data.only(data.surface)):
            print("each model left out of the fit (surface): " + ", ".join(f"{name} {shown(value)} of {value['n']}" for name, value in apart.items()))
        if data.judge and data.judge.prompt is None:
            data = data.only(data.surface)  # no statements, no prompt: nobody can rate another text in the same way
        model = fit(data)
        kept = stability(data, model)
        print(f"weights per standard deviation, of {(model.weight != 0).sum()} traits that are used; in how many of {RESAMPLES} bootstraps with this sign:")
        for i in sorted(np.flatnonzero(model.weight), key=lambda i: -abs(model.weight[i])):
            print(f"{data.ids[i]:20} {model.weight[i]:+.2f}   {100 * kept[data.ids[i]]['same sign']:.0f} %   {definition(data.ids[i], data, statements)}")
        if args.save:
            save(args.save, args.fit, data, model, rows | {"each model left out": apart}, statements)
            print(f"-> {args.save}")
    final = rows[best]["pairwise"]
    print(f"the score ({best}): pairwise_accuracy={final['value']:.3f} [{final['low']:.3f}, {final['high']:.3f}] n={final['n']}")


if __name__ == "__main__":
    entry(main)
