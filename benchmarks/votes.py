"""Do the intervals and tests of `eval.study` keep their promise? Simulated voting studies whose truth is known.

    python -m benchmarks.votes              # 2,000 studies a setting, ten minutes on a core of its own; --studies 500

Raters and questions have random effects on the logit scale. Activity: `equal` raters, `capped` (most cast a few votes, some up to the cap of 30, as the page
allows), or `uncapped` (Pareto: one person casts a large part; a study with a cap does not get there). Printed with Wilson's interval for the number of studies:
1. coverage of nominal 95 % intervals of a share: the study's own, the one by rater alone with t(G - 1), and Wilson's;
2. false positives at 5 % where nobody prefers a model, with side bias and careless raters;
3. style control where tuned answers are longer and raters like length: what it says of the model and of length;
4. five points: the mean, and the location of the cumulative logit model over all raters and of a typical one.

What is planted is one rater's taste on one question (conditional). What the share, style control and the plain models estimate is the same over all raters and
questions (marginal), which on the logit scale lies nearer to 0: 0.5 planted is 0.45 over all with standard deviations of 0.5 and 0.5. That is a difference of
estimands, no bias, and where nothing varies the two agree (the setting with sd 0/0). Each estimate is held against its own truth, by quadrature.
A line ends in `outside 93 to 97` where a coverage, as simulated, lies there; the last line counts those.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from datagen.files import UserError, entry
from eval import glmm, study
from eval.surface import wilson

SEED = 1
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
NOMINAL = (0.93, 0.97)  # what a coverage is wanted within
CUTS = np.array([-1.8, -0.5, 0.5, 1.8])  # of part 4: between five points
missed: list[str] = []  # coverages outside NOMINAL


@dataclass(frozen=True)
class Setting:
    share: float
    raters: int
    votes: int  # asked for; `capped` gives as many as its raters cast
    questions: int
    sd_rater: float
    sd_question: float
    activity: str = "equal"
    careless: float = 0.0  # share of raters who toss a coin or always take the left
    side: float = 0.0  # effect of standing left, logit

    def __str__(self) -> str:
        each = self.votes / self.questions
        return f"share {self.share:.3f}, {self.raters} raters ({self.activity}), {each:.1f} votes a question, sd {self.sd_rater:g}/{self.sd_question:g}"


COVERAGE = [
    Setting(share, *design)
    for share in (0.896, 0.6)
    for design in [
        (100, 667, 500, 0.5, 0.5),
        (100, 667, 500, 1.0, 1.0),
        (100, 750, 250, 1.0, 1.0),
        (20, 667, 500, 1.0, 1.0),
        (60, 667, 223, 1.0, 1.0, "capped"),
        (30, 300, 100, 1.0, 1.0, "capped"),
        (100, 667, 500, 1.0, 1.0, "uncapped"),
    ]
]
NOTHING = [Setting(0.5, 60, 667, 223, 0.5, 0.7, "capped", careless, side) for careless in (0.0, 0.3) for side in (0.0, 1.0)]


def logit_of(share: float, sd: float) -> float:
    """The logit whose share over all raters and questions is `share`."""
    return optimize.brentq(lambda b: WEIGHTS @ special.expit(b + sd * NODES) / WEIGHTS.sum() - share, -20, 20)


def raters_of(rng: np.random.Generator, setting: Setting) -> np.ndarray:
    """[votes] who cast each vote."""
    if setting.activity == "equal":
        return np.arange(setting.votes) % setting.raters
    eager = rng.pareto(1.16, setting.raters) + 1  # four fifths of votes from one fifth of raters
    if setting.activity == "uncapped":
        return rng.choice(setting.raters, setting.votes, p=eager / eager.sum())
    cast = np.clip(np.round(eager * setting.votes / setting.raters / 2), 1, 30).astype(int)
    return np.repeat(np.arange(setting.raters), cast)


def simulate(rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(tuned won, rater, question) of one study. Half of each rater's careless votes fall on either model, since sides are random."""
    rater = raters_of(rng, setting)
    question = rng.permutation(np.arange(len(rater)) % setting.questions)
    left = rng.random(len(rater)) < 0.5
    eta = logit_of(setting.share, np.hypot(setting.sd_rater, setting.sd_question)) + setting.side * (left - 0.5)
    eta = eta + setting.sd_rater * rng.normal(size=setting.raters)[rater] + setting.sd_question * rng.normal(size=setting.questions)[question]
    won = rng.random(len(rater)) < special.expit(eta)
    careless = rng.random(setting.raters) < setting.careless
    lazy = rng.random(setting.raters) < 0.5  # of the careless: always left; the others toss a coin
    thoughtless = np.where(lazy[rater], left, rng.random(len(rater)) < 0.5)
    return np.where(careless[rater], thoughtless, won).astype(float), rater, question


def told(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{100 * hits / n:5.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def covered(hits: int, n: int, what: str) -> str:
    """A coverage as text, kept in `missed` if it is not what was wanted."""
    if NOMINAL[0] <= hits / n <= NOMINAL[1]:
        return told(hits, n)
    missed.append(f"{what}: {told(hits, n)}")
    return f"{told(hits, n)} outside 93 to 97"


def coverage(setting: Setting, studies: int) -> None:
    rng = np.random.default_rng(SEED)
    hits, widths = {"study": 0, "rater": 0, "wilson": 0}, []
    for _ in range(studies):
        y, rater, question = simulate(rng, setting)
        found = study.share(y, rater, question)
        intervals = {"study": found["interval"], "rater": study.by_rater_alone(y, rater) or found["interval"], "wilson": wilson(y.sum(), len(y))}
        for name, (low, high) in intervals.items():
            hits[name] += low <= setting.share <= high
        widths.append(np.diff(found["interval"])[0])
    others = "  ".join(f"{what} {told(hits[name], studies)}" for name, what in (("rater", "rater alone"), ("wilson", "Wilson")))
    print(f"{setting!s:76} {others}  width {np.mean(widths):.3f}  study's {covered(hits['study'], studies, str(setting))}")


def false_positives(setting: Setting, studies: int) -> None:
    rng = np.random.default_rng(SEED)
    found = {"study": 0, "exact": 0}
    for _ in range(studies):
        y, rater, question = simulate(rng, setting)
        found["study"] += study.share(y, rater, question)["p"] < 0.05
        low, high = wilson(y.sum(), len(y))
        found["exact"] += not low <= 0.5 <= high
    name = f"side bias {setting.side:g}, careless {100 * setting.careless:.0f} %"
    print(f"{name:34} p < 0.05: study's {told(found['study'], studies)}  as if votes were independent {told(found['exact'], studies)}")


MEAN_LENGTH, SD_LENGTH, MOST = 0.3, 0.3, 0.95  # of the length difference of part 3, cut off at MOST


def confounded(rng: np.random.Generator, model: float, length: float, sd: float, raters: int, each: int, questions: int) -> tuple[np.ndarray, ...]:
    """(tuned won, length difference, rater, question) where tuned answers are longer by MEAN_LENGTH on average; sd: of raters, and of questions."""
    d = np.clip(rng.normal(MEAN_LENGTH, SD_LENGTH, questions), -MOST, MOST)
    rater = np.repeat(np.arange(raters), each)
    question = rng.permutation(np.arange(raters * each) % questions)
    eta = model + length * d[question] + sd * rng.normal(size=raters)[rater] + sd * rng.normal(size=questions)[question]
    return (rng.random(len(rater)) < special.expit(eta)).astype(float), d[question], rater, question


def over_all(model: float, length: float, sd: float) -> np.ndarray:
    """[2] (model, length) of the logistic regression of all possible votes of `confounded`: the truth of the plain model. By quadrature over raters, questions and d.

    Not that of one rater: the average of logistic curves is a flatter curve (Zeger, Liang and Albert 1988), which is fitted by the nearest logistic one."""
    d = np.clip(MEAN_LENGTH + SD_LENGTH * NODES, -MOST, MOST)
    eta = (model + length * d)[:, None] + sd * np.sqrt(2) * NODES
    chance = special.expit(eta) @ WEIGHTS / WEIGHTS.sum()
    x = np.column_stack([np.ones(len(d)), d])
    return optimize.root(lambda beta: (WEIGHTS * (chance - special.expit(x @ beta))) @ x, [model, length], tol=1e-12).x


def estimates(what: list[str], planted: list[float], truth: np.ndarray, found: list[tuple], studies: int, setting: str) -> None:
    """Prints mean estimate, bias and coverage. found: one row a study, of (value, low, high) for each of `what`."""
    values = np.array(found)
    for k, name in enumerate(what):
        mean, half = values[:, k, 0].mean(), values[:, k, 0].std() / np.sqrt(studies) * 1.959964
        hits = int(((values[:, k, 1] <= truth[k]) & (truth[k] <= values[:, k, 2])).sum())
        print(
            f"    {name:34} planted {planted[k]:+.2f}, truth {truth[k]:+.3f}, mean estimate {mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}], "
            f"covered {covered(hits, studies, f'{setting}: {name}')}"
        )


def recovery(model: float, length: float, sd: float, studies: int) -> None:
    rng, other = np.random.default_rng(SEED + 1), dict.fromkeys(study.STYLE, 0.0)
    nonzero, plain, raw, found = 0, 0, [], []
    for _ in range(studies):
        y, d, rater, question = confounded(rng, model, length, sd, 60, 12, 240)
        rows = [
            {"tuned_won": won, "rater": r, "question": q, "style": other | {"length": x}}
            for won, x, r, q in zip(y.tolist(), d.tolist(), rater.tolist(), question.tolist(), strict=True)
        ]
        style = study.style(rows)
        at_equal = style["controlled"]["logit"]
        found.append((at_equal, style["measures"][0]["effect"]))
        nonzero += not at_equal[1] <= 0 <= at_equal[2]
        plain += not style["raw"]["logit"][1] <= 0 <= style["raw"]["logit"][2]
        raw.append(style["raw"]["logit"][0])
    setting = f"model {model:+.1f}, length {length:+.1f}, sd {sd:g}/{sd:g}"
    print(f"{setting}: raw logit {np.mean(raw):+.2f}, called an effect in {told(plain, studies)}")
    estimates(["model at equal style, over all", "length, over all"], [model, length], over_all(model, length, sd), found, studies, setting)
    print(f"    at equal style called an effect in {told(nonzero, studies)}")


def of_points(location: float, sd: float) -> np.ndarray:
    """[5] chances of the points -2 to 2 over all raters and questions, sd of each."""
    at = np.concatenate([[-np.inf], CUTS, [np.inf]])[:, None] - location - sd * np.sqrt(2) * NODES
    return np.diff(special.expit(at), axis=0) @ WEIGHTS / WEIGHTS.sum()


def points(location: float, sd: float, studies: int) -> None:
    chances, scale = of_points(location, sd), np.arange(-2, 3)
    votes = glmm.Cumulative(scale)

    def loss(at: np.ndarray) -> float:
        """Of the cumulative logit model on all possible votes."""
        return -chances @ np.log(np.diff(special.expit(votes.bounds(at[1:]) - at[0])))

    truth = [chances @ scale, optimize.minimize(loss, np.zeros(1 + votes.cuts), tol=1e-12).x[0], location]
    rng, found, effects, failed = np.random.default_rng(SEED), [], [0, 0], 0
    for _ in range(studies):
        rater, question = np.repeat(np.arange(40), 15), rng.permutation(np.arange(600) % 150)
        eta = location + sd * rng.normal(size=40)[rater] + sd * rng.normal(size=150)[question]
        mine = np.searchsorted(CUTS, eta + rng.logistic(size=600)) - 2
        rows = [
            {"tuned_won": 0.5 + np.sign(p) / 2, "points": p, "rater": r, "question": q} for p, r, q in zip(mine.tolist(), rater.tolist(), question.tolist(), strict=True)
        ]
        five = study.five(rows)
        if five["typical"] is None:  # counted against it
            failed += 1
            five["typical"] = [five["location"][0], np.inf, -np.inf]
        found.append(([five["mean"]["value"], *five["mean"]["interval"]], five["location"], five["typical"]))
        for k, interval in enumerate((five["location"], five["dichotomised"])):
            effects[k] += not interval[1] <= 0 <= interval[2]
    setting = f"location {location:+.1f}, sd {sd:g}/{sd:g}"
    print(f"{setting}: an effect in {told(effects[0], studies)}, by the side alone in {told(effects[1], studies)}; mixed model not fitted in {failed} of {studies}")
    estimates(["mean of points", "location over all", "location of a typical rater"], [location] * 3, np.array(truth), found, studies, setting)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a setting (2000)")
    studies, started = parser.parse_args().studies, time.perf_counter()
    if studies < 1:
        raise UserError(f"--studies {studies}: at least 1")
    print(f"{studies} studies a setting; Wilson's 95 % intervals for that number\n\n1. coverage of nominal 95 % intervals of a share", flush=True)
    for setting in COVERAGE:
        coverage(setting, studies)
    print("\n2. no preference for a model: false positives, nominal 5 %", flush=True)
    for setting in NOTHING:
        false_positives(setting, studies)
    print(f"\n3. tuned answers are longer by {MEAN_LENGTH:g}; 60 raters x 12 votes on 240 questions", flush=True)
    for model, length, sd in ((0.0, 2.0, 0.5), (0.5, 2.0, 0.5), (-0.5, 2.0, 0.5), (1.0, 0.0, 0.5), (0.5, 2.0, 1.0), (0.5, 2.0, 0.0)):
        recovery(model, length, sd, studies)
    print("\n4. five points, cuts at " + ", ".join(f"{cut:g}" for cut in CUTS) + "; 40 raters x 15 votes on 150 questions; a quarter of the studies", flush=True)
    for location, sd in ((0.0, 0.5), (0.0, 1.0), (0.4, 0.5), (0.4, 1.0), (1.5, 1.0)):
        points(location, sd, max(1, studies // 4))  # each fits a mixed model
    print("\nevery coverage lies between 93 and 97 %" if not missed else f"\n{len(missed)} coverages lie outside 93 to 97 %:\n  " + "\n  ".join(missed))
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    entry(main)
