"""Statistics of a voting study: how often the tuned model was chosen, how sure that is, and what else could explain it.

Computed from the votes of a study and its key; `eval.studyreport` draws and writes what `result` gives.

Fixed before any data, and not fitted to them:
- The interval of a share counts votes of one rater together, and votes on one question (eval.glmm.spread), on the logit scale, by Student's t with the
  effective number of raters less 1. Beside it stand the interval by rater alone with t(G - 1), and Wilson's and the exact binomial one, which hold only
  if votes were independent. Where all raters chose alike, resampling sees no variance: then it is Wilson's with raters in the place of votes.
- A tie is half a vote for each side. The exact test leaves ties out, as a sign test does.
- Who is careless is a rule of the study's file (`careless` in eval/study.yaml), frozen before the first vote; a tie on a gold pair is a failure. Time is the
  browser's: by the server's, which counts the way there and back, votes that are too fast are not taken.
  The main table keeps everybody; the results without careless raters stand beside it.
- On a scale of five points the tables above take the side only; beside them stand the mean of the points (-2: clearly the base's, 2: clearly the tuned
  model's) and a cumulative logit model with cuts that mirror each other (eval.glmm.Cumulative), over all votes and for a typical rater and question.
- Every effect but the mixed models' is over all raters and questions (marginal), which is what the raw share estimates; one rater's effect on the logit
  scale is larger (eval.glmm).
- Style differences are tuned less base, (t - o) / (t + o) of each count, 0 where neither has any, counted before emoji were removed. They are not
  centred: with one fixed direction, centring would give the style's share of the effect back to the model.

Votes come from `eval.votes`, which model wrote which side from `key.json`.
"""

from pathlib import Path

import numpy as np
from scipy import special, stats
from scipy.sparse import csgraph

from datagen.files import UserError, read_json
from eval import glmm
from eval.ballot import frozen
from eval.studyfile import Careless
from eval.surface import wilson
from eval.votes import export
from train.recipe import base_of

RESAMPLES, SEED = 1000, 1
STYLE = {"length": "characters", "bold": "bold", "lists": "lists", "headings": "headings", "emoji": "emoji"}
NEAR = 0.1  # of a style difference: answers that close count as of equal style
BINS = ((1, 5), (6, 10), (11, 20), (21, 10**6))  # positions within a rater's session
UNBOUNDED = 12.0  # a logit beyond which a resample has no finite estimate
# Columns of eval.votes.export; what else a row holds are answers to the questionnaire.
COLUMNS = {
    *("vote", "rater", "item", "question_id", "pair", "kind", "position", "left_is", "choice", "chosen", "seconds_server", "seconds_client", "layout", "input"),
    *("received_at", "quiz_passed", "quiz_tries", "gold_right", "repeat_of", "repeat_same"),
}

# Çalık and Akkuş 2025 (arXiv 2501.05032), Table 5: selection rates; 2,000 votes over the three pairs in all, on 500 questions. Votes per pair are not
# given: an equal split is our assumption.
PAPER = {"llama3-8b": 0.896, "qwen2.5-7b": 0.895, "mistral-nemo": 0.796}
PAPER_VOTES = round(2000 / 3)
DESIGN_EFFECTS = (1.0, 1.5, 3.5)


# ---------------------------------------------------------------- votes


def joined(folder: Path) -> list[dict]:
    """The votes of a study with what the page did not know. One row a vote: rater, question, item, pair, kind, position, seconds (server),
    seconds_client, tuned_won (1, 0, 0.5; None for gold), points (of five, -2 to 2 for the tuned model; else None), tuned_left, label (a, b or tie: the
    blind label), gold_right, repeat_same, style (tuned less base, see above), questionnaire."""
    return join(export(folder), read_json(folder / "key.json"))


def join(rows: list[dict], key: dict) -> list[dict]:
    found = []
    for row in rows:
        made = {name: row[name] for name in ("rater", "item", "pair", "kind", "position", "gold_right", "repeat_same")}
        made |= {"question": row["question_id"], "seconds": row["seconds_server"], "label": row["chosen"] or "tie"}
        made["seconds_client"] = row["seconds_server"] if row["seconds_client"] is None else row["seconds_client"]
        made |= {"questionnaire": {name: value for name, value in row.items() if name not in COLUMNS}}
        made |= dict.fromkeys(("tuned_won", "points", "tuned_left", "style"))
        if row["kind"] != "gold":
            if row["item"] not in key:
                raise UserError(f"key.json has no item {row['item']}, on which there is a vote; it belongs to another study")
            sides = key[row["item"]]
            tuned = "a" if sides["a"] == "tuned" else "b"
            made["tuned_won"] = 0.5 if row["chosen"] is None else float(row["chosen"] == tuned)
            made["tuned_left"] = row["left_is"] == tuned
            if isinstance(row["choice"], int):
                made["points"] = -row["choice"] if made["tuned_left"] else row["choice"]
            made["style"] = differences(*(sides["style"][side] for side in (tuned, "b" if tuned == "a" else "a")))
        found.append(made)
    return found


def differences(tuned: dict, base: dict) -> dict[str, float]:
    """Each style count of STYLE as (t - o) / (t + o), from -1 to 1."""
    return {name: (tuned[count] - base[count]) / max(1, tuned[count] + base[count]) for name, count in STYLE.items()}


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def by_pair(rows: list[dict]) -> dict[str, list[dict]]:
    """The main votes of each pair."""
    found: dict[str, list[dict]] = {}
    for row in rows:
        if row["kind"] == "main":
            found.setdefault(row["pair"], []).append(row)
    return dict(sorted(found.items()))


# ---------------------------------------------------------------- shares


def share(y: np.ndarray, rater: np.ndarray, question: np.ndarray | None = None) -> dict | None:
    """The mean of y [n] in [0, 1] with the study's interval; None of nothing. `p`: two-sided test of one half, by the same variance.

    `design effect`: by how much raters and questions widen the variance of n independent votes."""
    y = np.asarray(y, float)
    n = len(y)
    if not n:
        return None
    value, raters = float(y.mean()), len(np.unique(rater))
    found = {"value": value, "n": n, "raters": raters}
    variance, df = glmm.spread((y - value) / n, rater, question)
    if not variance > 1e-12 or not 0 < value < 1:
        p = min(1.0, 2 * 0.5**raters) if value in (0, 1) else None
        return found | {"interval": list(wilson(value * raters, raters)), "p": p, "design effect": None, "effective raters": None, "alike": True}
    half = value * (1 - value)
    error, logit = np.sqrt(variance) / half, special.logit(value)
    interval = special.expit(logit + stats.t.ppf([0.025, 0.975], df) * error)
    p = float(2 * stats.t.sf(abs(logit) / error, df))
    return found | {"interval": interval.tolist(), "p": p, "design effect": variance / (half / n), "effective raters": df + 1, "alike": False}


def by_rater_alone(y: np.ndarray, rater: np.ndarray) -> list[float] | None:
    """The interval clustered by rater alone, t(G - 1), logit scale, with the plain sandwich variance; None where it has none."""
    n, value = len(y), float(np.mean(y))
    sums = np.bincount(np.unique(rater, return_inverse=True)[1], (y - value) / n)
    groups = len(sums)
    if groups < 2 or not 0 < value < 1 or not sums @ sums > 1e-12:
        return None
    error = np.sqrt(groups / (groups - 1) * (sums @ sums)) / (value * (1 - value))
    return special.expit(special.logit(value) + stats.t.ppf([0.025, 0.975], groups - 1) * error).tolist()


def selection(rows: list[dict]) -> dict:
    """How often the tuned model of a pair was chosen."""
    y, rater = column(rows, "tuned_won"), column(rows, "rater")
    decided, wins = int((y != 0.5).sum()), int((y == 1).sum())
    exact = stats.binomtest(wins, decided) if decided else None
    return share(y, rater, column(rows, "question")) | {
        "questions": len({row["question"] for row in rows}),
        "wins": wins,
        "ties": len(y) - decided,
        "ties share": share(y == 0.5, rater),
        "by rater alone": by_rater_alone(y, rater),
        "wilson": list(wilson(float(y.sum()), len(y))),
        "exact": None if exact is None else [wins / decided, *map(float, exact.proportion_ci(method="exact"))],
        "exact p": None if exact is None else float(exact.pvalue),
    }


def holm(p: list[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979)."""
    known = sorted((value, i) for i, value in enumerate(p) if value is not None)
    adjusted, highest = list(p), 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        adjusted[i] = highest
    return adjusted


def intercepts(rater: np.ndarray, question: np.ndarray) -> tuple[dict[str, np.ndarray], str | None]:
    """(factors of a mixed model, a note). The question's intercept is fitted only with 3 votes a question or more: below, its variance cannot be told."""
    each = len(question) / len(np.unique(question))
    if each >= 3:
        return {"rater": rater, "question": question}, None
    return {"rater": rater}, f"{each:.1f} votes a question: no intercept for questions, whose variance cannot be told below 3"


def mixed(rows: list[dict], raw: float) -> dict:
    """The mixed model of a pair; see `intercepts`."""
    y, rater, question = (column(rows, name) for name in ("tuned_won", "rater", "question"))
    factors, note = intercepts(rater, question)
    found = {"n": len(y), "model": "1" + "".join(f" + (1|{name})" for name in factors), "note": note, "typical": None}
    if len(np.unique(rater)) < 3 or not 0 < raw < 1:
        return found | {"note": "not fitted: it needs 3 raters, and votes for both models"}
    fitted = glmm.fit(y, np.ones((len(y), 1)), list(factors.values()))
    if not fitted.converged:
        return found | {"note": "the likelihood has no maximum that could be found"}
    logits = fitted.coefficients[0] + np.array([0, -1.959964, 1.959964]) * fitted.errors[0]
    over = [glmm.marginal(logit, fitted.sds) for logit in logits]
    return found | {
        "typical": special.expit(logits).tolist(),
        "over all": over,
        "sds": dict(zip(factors, fitted.sds.tolist(), strict=True)),
        "deviance": fitted.deviance,
        "changes": over[0] - raw,
    }


# ---------------------------------------------------------------- five points

POINTS = (2, 1, 0, -1, -2)  # from clearly the tuned model's to clearly the base's


def five(rows: list[dict]) -> dict | None:
    """Votes on a scale of five points, tuned less base; None where the study asked for sides only.

    mean: with the study's interval, on the scale moved to 0 to 1, so that it cannot leave the scale; p of a mean of 0. location: of the cumulative logit
    model, 0 where neither is preferred: over all raters and questions with errors clustered by both, and of a typical rater and question by the mixed model,
    whose question intercept needs 3 votes a question as in `mixed`. dichotomised: the logit of the share, beside it."""
    if any(row["points"] is None for row in rows):
        return None
    points, rater, question = (column(rows, name) for name in ("points", "rater", "question"))
    ones = np.ones((len(rows), 1))
    whole = share((points + 2) / 4, rater, question)
    mean = whole | {"value": float(points.mean()), "interval": [4 * x - 2 for x in whole["interval"]]}
    found = {"n": len(rows), "mean": mean, "counts": {str(k): int((points == k).sum()) for k in POINTS}}
    found |= {"location": None, "typical": None, "sds": None, "note": None}
    found["dichotomised"] = finite(glmm.clustered(column(rows, "tuned_won"), ones, rater, question).interval(np.ones(1)))
    if not points.any():
        return found | {"note": "no vote is for either side"}
    votes = glmm.Cumulative(points)
    plain = glmm.clustered(votes, ones, rater, question)
    found["location"] = finite(plain.interval(np.eye(1 + votes.cuts)[0]))
    factors, found["note"] = intercepts(rater, question)
    if len(np.unique(rater)) < 3 or votes.alike:
        return found | {"note": "no mixed model: it needs 3 raters, and votes on more than one point"}
    fitted = glmm.fit(votes, ones, list(factors.values()))
    if not fitted.converged:
        return found | {"note": "the likelihood of the mixed model has no maximum that could be found"}
    found["typical"] = (fitted.coefficients[0] + np.array([0, -1.959964, 1.959964]) * fitted.errors[0]).tolist()
    return found | {"sds": dict(zip(factors, fitted.sds.tolist(), strict=True))}


# ---------------------------------------------------------------- sides and style


def sides(rows: list[dict]) -> dict:
    """How often the left answer was chosen of those votes that are no tie, and the tuned model's share with the side held equal."""
    decided = [row for row in rows if row["tuned_won"] != 0.5]
    left = share(np.array([(row["tuned_won"] == 1) == row["tuned_left"] for row in decided]), column(decided, "rater")) if decided else None
    shown = np.where(column(rows, "tuned_left"), 0.5, -0.5)
    found = {"left": left, "tuned shown left": share(column(rows, "tuned_left"), column(rows, "rater")), "effect": None, "level": None}
    if np.ptp(shown) == 0:
        return found | {"note": "the tuned answer always stood on one side"}
    fitted = glmm.clustered(column(rows, "tuned_won"), np.column_stack([np.ones(len(rows)), shown]), column(rows, "rater"), column(rows, "question"))
    return found | {"effect": finite(fitted.interval(np.array([0, 1.0]))), "level": finite(special.expit(fitted.interval(np.array([1.0, 0]))))}


def finite(values) -> list[float] | None:
    """A (value, low, high) as JSON knows it; None where it could not be told."""
    return [float(x) for x in values] if np.all(np.isfinite(values)) else None


def style(rows: list[dict]) -> dict:
    """What is left of the tuned model's share where both answers have the same style: logit P(tuned wins) = b0 + style differences . b, at 0."""
    y, rater, question = (column(rows, name) for name in ("tuned_won", "rater", "question"))
    values = {name: np.array([row["style"][name] for row in rows]) for name in STYLE}
    overlap, left_out = [], []
    for name, d in values.items():
        near = int((np.abs(d) <= NEAR).sum())
        row = {"measure": name, "mean": float(d.mean()), "more": int((d > 0).sum()), "equal": int((d == 0).sum()), "fewer": int((d < 0).sum()), "near": near}
        overlap.append(row | {"n": len(d), "effect": None})
        if np.ptp(d) == 0:
            left_out.append(f"{name} ({'never differs' if d[0] == 0 else 'always differs by the same, so its effect cannot be told from the model'})")
    used = [name for name, d in values.items() if np.ptp(d) > 0]
    together = np.all([np.abs(values[name]) <= NEAR for name in used], axis=0) if used else np.ones(len(y), bool)
    ones = np.ones((len(y), 1))
    plain = glmm.clustered(y, ones, rater, question)
    full = glmm.clustered(y, np.column_stack([ones, *(values[name] for name in used)]), rater, question)
    first = np.eye(len(used) + 1)[0]
    level, controlled = plain.interval(np.ones(1)), full.interval(first)
    # The two estimates come from the same votes: the error of their difference is that of the difference of each vote's influence.
    variance, df = glmm.spread(plain.influence[:, 0] - full.influence[:, 0], rater, question)
    difference = level[0] - controlled[0]
    half = float(stats.t.ppf(0.975, df) * np.sqrt(variance))
    left = None
    if level[1] > 0 or level[2] < 0:  # of an effect that may be none, no part can be named
        part = controlled[0] / level[0]
        variance, df = glmm.spread((full.influence[:, 0] - part * plain.influence[:, 0]) / level[0], rater, question)
        left = finite(part + np.array([0, -1, 1]) * stats.t.ppf(0.975, df) * np.sqrt(variance))
    for row in overlap:
        if row["measure"] in used:
            row["effect"] = finite(full.interval(np.eye(len(used) + 1)[1 + used.index(row["measure"])]))
    notes = [f"left out: {', '.join(left_out)}"] if left_out else []
    for row in overlap:
        fewest = min(row["more"], row["fewer"]) + row["equal"]
        if row["measure"] in used and fewest < len(y) / 10:
            notes.append(f"{row['measure']}: mostly extrapolated, {fewest} of {len(y)} votes are on pairs without the usual difference")
    if len(y) < 10 * (len(used) + 1):
        notes.append(f"{len(y)} votes for {len(used) + 1} coefficients: too few to be relied on")
    return {
        "n": len(y),
        "raw": {"logit": finite(level), "share": finite(special.expit(level))},
        "controlled": {"logit": finite(controlled), "share": finite(special.expit(controlled))},
        "difference": finite((difference, difference - half, difference + half)),
        "left": left,
        "measures": overlap,
        "near zero on all": int(together.sum()),
        "share there": share(y[together], rater[together], question[together]),
        "notes": notes,
    }


# ---------------------------------------------------------------- Bradley and Terry


def strengths(first: np.ndarray, second: np.ndarray, wins: np.ndarray, n: np.ndarray, models: int) -> np.ndarray:
    """[fits, models] strengths (logits, mean 0) by maximum likelihood from wins [fits, pairs] of n [fits, pairs] games, first against second [pairs].

    Newton's method with steps of at most 1; where a model only wins or only loses, the logit grows beyond UNBOUNDED."""
    design = np.zeros((len(first), models))
    design[np.arange(len(first)), first], design[np.arange(len(first)), second] = 1, -1
    theta = np.zeros((len(wins), models))
    fixed = np.full((models, models), 1 / models) + 1e-9 * np.eye(models)
    for _ in range(60):
        p = special.expit(theta @ design.T)
        gradient = (wins - n * p) @ design
        hessian = np.einsum("fk,ki,kj->fij", n * p * (1 - p), design, design) + fixed
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        theta += step / np.maximum(1, np.abs(step).max(1, keepdims=True))
        theta = np.clip(theta - theta.mean(1, keepdims=True), -30, 30)
        if np.abs(step).max() < 1e-9:
            break
    return theta


def bradley_terry(games: list[tuple[str, str, float]], rater: np.ndarray) -> dict:
    """Strengths of any connected set of models from (first, second, result of the first: 1, 1/2, 0) games (Bradley and Terry 1952), by maximum likelihood
    (ties half), on the logit scale with mean 0; 95 % percentile intervals by resampling raters. A bound of None has no finite estimate.

    Raises UserError where the models fall into parts that were never compared, or where some of them won or lost all games (Ford 1957)."""
    models = sorted({name for one, other, _ in games for name in (one, other)})
    at = {name: i for i, name in enumerate(models)}
    first, second, y = np.array([at[g[0]] for g in games]), np.array([at[g[1]] for g in games]), np.array([g[2] for g in games])
    swapped = first > second
    first, second, y = np.where(swapped, second, first), np.where(swapped, first, second), np.where(swapped, 1 - y, y)
    beaten = np.zeros((len(models), len(models)))
    np.add.at(beaten, (first, second), y > 0)
    np.add.at(beaten, (second, first), y < 1)
    for kind, what in (("weak", "were never compared with each other"), ("strong", "won or lost every vote against the others, so no finite strength fits")):
        count, part = csgraph.connected_components(beaten, connection=kind)
        if count > 1:
            names = "; ".join(", ".join(name for name, p in zip(models, part, strict=True) if p == k) for k in range(count))
            raise UserError(f"no ranking of all models: these parts {what}: {names}")
    pairs, where = np.unique(np.stack([first, second], 1), axis=0, return_inverse=True)
    where = where.reshape(-1)
    codes = np.unique(rater, return_inverse=True)[1]
    groups = int(codes.max()) + 1
    wins, n = (np.bincount(codes * len(pairs) + where, v, groups * len(pairs)).reshape(groups, -1) for v in (y, np.ones(len(y))))
    drawn = np.random.default_rng(SEED).multinomial(groups, np.full(groups, 1 / groups), RESAMPLES)
    value = strengths(*pairs.T, wins.sum(0)[None], n.sum(0)[None], len(models))[0]
    many = strengths(*pairs.T, drawn @ wins, drawn @ n, len(models))
    low, high = np.percentile(many, [2.5, 97.5], axis=0) if groups > 1 else np.full((2, len(models)), np.inf)
    bound = lambda x: float(x) if abs(x) < UNBOUNDED else None  # noqa: E731
    order = np.argsort(-value)
    played = np.bincount(np.concatenate([first, second]), minlength=len(models))
    return {
        "models": [{"model": models[i], "strength": float(value[i]), "interval": [bound(low[i]), bound(high[i])], "n": int(played[i])} for i in order],
        "raters": groups,
    }


def ranking(rows: list[dict]) -> dict:
    """Bradley and Terry over all pairs, and where they are more than one, the same with style differences as covariates; or why there is none."""
    # Runs of one base are compared through it, so it is named apart from the run.
    games = [(row["pair"], f"{base_of(row['pair'])} (base)", row["tuned_won"]) for row in rows]
    try:
        found = bradley_terry(games, column(rows, "rater"))
    except UserError as error:
        return {"models": None, "controlled": None, "note": str(error)}
    found |= {"controlled": None, "note": None}
    names = sorted(row["model"] for row in found["models"])
    if len(names) > 2:
        values = {name: np.array([row["style"][name] for row in rows]) for name in STYLE}
        used = [d for d in values.values() if np.ptp(d) > 0]
        design = np.zeros((len(rows), len(names)))
        for i, (one, other, _) in enumerate(games):
            design[i, names.index(one)], design[i, names.index(other)] = 1, -1
        # Mean 0: the last strength is less the sum of the others.
        fitted = glmm.clustered(column(rows, "tuned_won"), np.column_stack([design[:, :-1] - design[:, -1:], *used]), column(rows, "rater"), column(rows, "question"))
        contrasts = np.vstack([np.eye(len(names) - 1), -np.ones(len(names) - 1)])
        found["controlled"] = {name: finite(fitted.interval(np.concatenate([contrast, np.zeros(len(used))]))) for name, contrast in zip(names, contrasts, strict=True)}
    return found


# ---------------------------------------------------------------- agreement


def agreed(counts: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Agreement of [items, labels] counts of votes, for each row of `weights` [resamples, items], how often each item is taken. [resamples] each:

    alpha: Krippendorff's for nominal labels, 1 - (n - 1) (n - sum_u A_u) / (n^2 - sum_c n_c^2) with A_u = sum_c n_uc (n_uc - 1) / (m_u - 1)
    (Krippendorff 2011); raw: the mean over items of the share of pairs of raters that agree; ac1: Gwet's (2008), chance from the mean share of each label.
    NaN where all votes have one label."""
    m = counts.sum(1)
    pairs = (counts * (counts - 1)).sum(1)
    n, labels = weights @ m, weights @ counts
    raw = weights @ (pairs / (m * (m - 1))) / weights.sum(1)
    mean = weights @ (counts / m[:, None]) / weights.sum(1, keepdims=True)
    chance = (mean * (1 - mean)).sum(1) / (counts.shape[1] - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        alpha = 1 - (n - 1) * (n - weights @ (pairs / (m - 1))) / (n**2 - (labels**2).sum(1))
    return {"alpha": alpha, "raw": raw, "ac1": (raw - chance) / (1 - chance)}


def agreement(rows: list[dict]) -> dict:
    """On items with votes of two raters or more: alpha with blind labels (a or b, random for each item) and with models' labels, raw agreement and AC1, each with
    a 95 % interval by resampling items. Blind labels are what raters could see; with models' labels a lopsided result alone brings alpha near 0."""
    items: dict[tuple, list[dict]] = {}
    for row in rows:
        items.setdefault((row["pair"], row["item"]), []).append(row)
    shared = [votes for votes in items.values() if len(votes) > 1]
    found = {"items": len(shared), "votes": sum(map(len, shared)), "alpha blind": None, "alpha models": None, "raw": None, "ac1": None}
    if not shared:
        return found
    ties = any(row["label"] == "tie" for votes in shared for row in votes)
    blind = np.array([[sum(row["label"] == label for row in votes) for label in ("a", "b", *(["tie"] * ties))] for votes in shared], float)
    model = np.array([[sum(row["tuned_won"] == label for row in votes) for label in (0, 1, *([0.5] * ties))] for votes in shared], float)
    weights = np.random.default_rng(SEED).multinomial(len(shared), np.full(len(shared), 1 / len(shared)), RESAMPLES)

    def with_interval(counts: np.ndarray, what: str) -> list[float] | None:
        value = float(agreed(counts, np.ones((1, len(counts))))[what][0])
        drawn = agreed(counts, weights)[what]
        return [value, *map(float, np.nanpercentile(drawn, [2.5, 97.5]))] if np.isfinite(value) else None

    found |= {"alpha blind": with_interval(blind, "alpha"), "alpha models": with_interval(model, "alpha"), "ac1": with_interval(blind, "ac1")}
    raw = with_interval(blind, "raw")
    if raw[1] == raw[2]:
        raw[1:] = wilson(raw[0] * len(shared), len(shared))  # no item differs: resampling would claim certainty
    return found | {"raw": raw}


# ---------------------------------------------------------------- raters


def attention(rows: list[dict], rule: Careless) -> list[dict]:
    """One row a rater, most failures first: gold pairs failed, repeats answered otherwise, median seconds, and why the rule leaves them out (or None)."""
    found = []
    mine: dict[str, list[dict]] = {}
    for row in rows:
        mine.setdefault(row["rater"], []).append(row)
    for rater, votes in mine.items():
        gold, repeats = ([row[what] for row in votes if row[what] is not None] for what in ("gold_right", "repeat_same"))
        median = float(np.median([row["seconds_client"] for row in votes]))
        failed = gold.count(False)
        reasons = [f"{failed} gold pairs failed"] if rule.gold_failed and failed >= rule.gold_failed else []
        reasons += [f"median time {median:.1f} s, below {rule.median_seconds:g} s"] if median < rule.median_seconds else []
        numbers = {"votes": sum(row["kind"] == "main" for row in votes), "gold": len(gold), "gold failed": failed, "repeats": len(repeats)}
        found.append({"rater": rater} | numbers | {"repeats changed": repeats.count(False), "median seconds": median, "careless": "; ".join(reasons) or None})
    return sorted(found, key=lambda row: (row["careless"] is None, -row["gold failed"], -row["repeats changed"], row["rater"]))


def without(rows: list[dict], raters: set[str]) -> dict | None:
    """A pair's share without some raters, by how much they moved it (paired: all votes but theirs stand in both), and the other main results without
    them; None where nobody is left."""
    y, rater, question = (column(rows, name) for name in ("tuned_won", "rater", "question"))
    kept = ~np.isin(rater, sorted(raters))
    if not kept.any():
        return None
    rest = share(y[kept], rater[kept], question[kept])
    influence = np.where(kept, (y - rest["value"]) / kept.sum(), 0) - (y - y.mean()) / len(y)
    variance, df = glmm.spread(influence, rater, question)
    difference, half = rest["value"] - float(y.mean()), float(stats.t.ppf(0.975, df) * np.sqrt(variance))
    others = [row for row, stays in zip(rows, kept, strict=True) if stays]
    return rest | {
        "difference": finite((difference, difference - half, difference + half)),
        "left out": len(np.unique(rater[~kept])),
        "equal style": style(others)["controlled"]["share"],
        "left": sides(others)["left"],
        "alpha blind": agreement(others)["alpha blind"],
    }


def one_left_out(rows: list[dict]) -> dict | None:
    """The range of a pair's share when each rater in turn is left out, and who moves it most; None with a single rater."""
    y, (names, codes) = column(rows, "tuned_won"), np.unique(column(rows, "rater"), return_inverse=True)
    if len(names) < 2:
        return None
    sums, sizes = np.bincount(codes, y), np.bincount(codes)
    rest = (y.sum() - sums) / (len(y) - sizes)
    most = int(np.argmax(np.abs(rest - y.mean())))
    return {
        "all": float(y.mean()),
        "low": float(rest.min()),
        "high": float(rest.max()),
        "raters": len(names),
        "most": str(names[most]),
        "votes": int(sizes[most]),
        "own": float(sums[most] / sizes[most]),
        "without": float(rest[most]),
    }


def subgroups(rows: list[dict]) -> list[dict]:
    """A pair's share by each answer to each question of the questionnaire."""
    found = []
    for key in sorted({key for row in rows for key in row["questionnaire"]}):
        for answer in sorted({str(row["questionnaire"].get(key, "no answer")) for row in rows}):
            mine = [row for row in rows if str(row["questionnaire"].get(key, "no answer")) == answer]
            found.append({"key": key, "answer": answer} | share(column(mine, "tuned_won"), column(mine, "rater"), column(mine, "question")))
    return found


def times(rows: list[dict]) -> list[dict]:
    """Median seconds per main vote, in all and by position in the session, with 95 % intervals by resampling raters."""
    found = []
    for low, high in ((1, BINS[-1][1]), *BINS):
        mine = [row for row in rows if row["kind"] == "main" and low <= row["position"] <= high]
        if mine:
            name = "all" if (low, high) == (1, BINS[-1][1]) else f"{low} to {high}" if high < BINS[-1][1] else f"{low} and later"
            found.append({"positions": name} | median(column(mine, "seconds"), column(mine, "rater")))
    return found


def median(seconds: np.ndarray, rater: np.ndarray) -> dict:
    names, codes = np.unique(rater, return_inverse=True)
    found = {"value": float(np.median(seconds)), "n": len(seconds), "raters": len(names), "interval": None}
    if len(names) < 2:
        return found
    order = np.argsort(seconds)
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    below = np.cumsum(drawn[:, codes[order]], axis=1)
    middle = seconds[order][(below >= below[:, -1:] / 2).argmax(1)]
    return found | {"interval": [float(x) for x in np.percentile(middle, [2.5, 97.5])]}


# ---------------------------------------------------------------- the paper


def paper() -> list[dict]:
    """Table 5 with the intervals that its counts allow, if PAPER_VOTES votes fell on each pair, for several design effects."""
    found = []
    for run, value in PAPER.items():
        wins = round(value * PAPER_VOTES)
        exact = stats.binomtest(wins, PAPER_VOTES).proportion_ci(method="exact")
        intervals = {str(effect): list(wilson(wins / effect, PAPER_VOTES / effect)) for effect in DESIGN_EFFECTS}
        found.append({"run": run, "value": value, "n": PAPER_VOTES, "wins": wins, "wilson": intervals, "exact": [float(exact.low), float(exact.high)]})
    return found


def result(folder: Path) -> dict:
    """Everything in report.json. Raises UserError where there are no votes yet, or a file is not the one that the study was frozen with."""
    lock = frozen(folder)
    if "careless" not in lock["settings"]:
        raise UserError(f"{folder / 'study.lock.json'}: freezes no rule of who is careless, so it was made by an earlier version; use that one for its report")
    facts = {"study": lock["study"], "folder": str(folder), "questions left out": lock["questions"]["left out"]}
    return facts | statistics(joined(folder), lock["simulated"], Careless(**lock["settings"]["careless"]))


def statistics(rows: list[dict], simulated: bool, rule: Careless) -> dict:
    pairs = by_pair(rows)
    if not pairs:
        raise UserError("there is no vote on a pair of answers yet; open the page with `make vote`, and run this again when people have voted")
    everybody = attention(rows, rule)
    careless = {row["rater"] for row in everybody if row["careless"]}
    main = [row for votes in pairs.values() for row in votes]
    gold, repeats = ([row for row in rows if row[what] is not None] for what in ("gold_right", "repeat_same"))
    found = {
        "simulated": simulated,
        "whose": "simulated raters" if simulated else "people's votes",
        "votes": len(main),
        "raters": len({row["rater"] for row in main}),
        "questions": len({row["question"] for row in main}),
        "ties": sum(row["tuned_won"] == 0.5 for row in main),
        "careless rule": str(rule),
        "pairs": {name: pair_of(votes, careless) for name, votes in pairs.items()},
        "sides": sides(main),
        "ranking": ranking(main),
        "agreement": {name: agreement(votes) for name, votes in pairs.items()} | ({"all pairs": agreement(main)} if len(pairs) > 1 else {}),
        "attention": {
            "raters": everybody,
            "careless": len(careless),
            "gold": share(column(gold, "gold_right"), column(gold, "rater")) if gold else None,
            "repeats": share(column(repeats, "repeat_same"), column(repeats, "rater")) if repeats else None,
        },
        "times": times(rows),
        "paper": paper(),
    }
    for pair, p in zip(found["pairs"].values(), holm([pair["selection"]["p"] for pair in found["pairs"].values()]), strict=True):
        pair["selection"]["p holm"] = p
    return found


def pair_of(votes: list[dict], careless: set[str]) -> dict:
    chosen = selection(votes)
    return {
        "selection": chosen,
        "mixed": mixed(votes, chosen["value"]),
        "five": five(votes),
        "sides": sides(votes),
        "style": style(votes),
        "without careless": without(votes, careless),
        "subgroups": subgroups(votes),
        "one rater left out": one_left_out(votes),
        "shares of raters": [
            {"rater": name, "n": len(y), "value": float(y.mean()), "careless": name in careless}
            for name in sorted({row["rater"] for row in votes})
            for y in [np.array([row["tuned_won"] for row in votes if row["rater"] == name])]
        ],
    }
