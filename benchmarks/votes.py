"""Do the intervals and tests of `eval.study` keep their promise? Simulated voting studies whose truth is known.

    python -m benchmarks.votes              # 500 studies a setting; --quick: 50

Raters and questions have random effects on the logit scale. Activity: `equal` raters, `capped` (most cast a few votes, some up to the cap of 30, as the page
allows), or `uncapped` (Pareto: one person casts a large part; a study with a cap does not get there). Printed with Wilson's interval for the number of studies:
1. coverage of nominal 95 % intervals of a share: the study's own, the one by rater alone with t(G - 1), and Wilson's;
2. false positives at 5 % where nobody prefers a model, with side bias and careless raters;
3. style control where tuned answers are longer and raters like length: what it says of the model and of length. The truth there is the regression on
   a very large sample, since the coefficients over all raters are nearer to 0 than one rater's.
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from datagen.files import entry
from eval import glmm, study
from eval.surface import wilson

SEED = 1
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
LARGE = 400_000  # votes that give the truth of part 3


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
    shown = "  ".join(f"{what} {told(hits[name], studies)}" for name, what in (("study", "study's"), ("rater", "rater alone"), ("wilson", "Wilson")))
    print(f"{setting!s:76} {shown}  width {np.mean(widths):.3f}")


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


def confounded(rng: np.random.Generator, model: float, length: float, raters: int, each: int, questions: int) -> tuple[np.ndarray, ...]:
    """(tuned won, length difference, rater, question) where tuned answers are longer by 0.3 on average."""
    d = np.clip(rng.normal(0.3, 0.3, questions), -0.95, 0.95)
    rater = np.repeat(np.arange(raters), each)
    question = rng.permutation(np.arange(raters * each) % questions)
    eta = model + length * d[question] + 0.5 * rng.normal(size=raters)[rater] + 0.5 * rng.normal(size=questions)[question]
    return (rng.random(len(rater)) < special.expit(eta)).astype(float), d[question], rater, question


def recovery(model: float, length: float, studies: int) -> None:
    y, d, rater, _ = confounded(np.random.default_rng(SEED), model, length, LARGE, 1, LARGE)
    true_model, true_length = glmm.clustered(y, np.column_stack([np.ones(LARGE), d]), rater).coefficients
    rng, other = np.random.default_rng(SEED + 1), dict.fromkeys(study.STYLE, 0.0)
    hits, nonzero, plain, raw, estimates = [0, 0], 0, 0, [], []
    for _ in range(studies):
        y, d, rater, question = confounded(rng, model, length, 60, 12, 240)
        rows = [
            {"tuned_won": won, "rater": r, "question": q, "style": other | {"length": x}}
            for won, x, r, q in zip(y.tolist(), d.tolist(), rater.tolist(), question.tolist(), strict=True)
        ]
        found = study.style(rows)
        at_equal, effect = found["controlled"]["logit"], found["measures"][0]["effect"]
        hits[0] += at_equal[1] <= true_model <= at_equal[2]
        hits[1] += effect[1] <= true_length <= effect[2]
        nonzero += not at_equal[1] <= 0 <= at_equal[2]
        plain += not found["raw"]["logit"][1] <= 0 <= found["raw"]["logit"][2]
        raw.append(found["raw"]["logit"][0])
        estimates.append((at_equal[0], effect[0]))
    mean = np.mean(estimates, axis=0)
    error = np.std(estimates, axis=0) / np.sqrt(studies) * 1.959964
    print(f"model {model:+.1f}, length {length:+.1f}: raw logit {np.mean(raw):+.2f}, called an effect in {told(plain, studies)}")
    for name, truth, value, half, hit in zip(("model at equal style", "length"), (true_model, true_length), mean, error, hits, strict=True):
        print(f"    {name:20} truth {truth:+.2f}, mean estimate {value:+.2f} [{value - half:+.2f}, {value + half:+.2f}], covered {told(hit, studies)}")
    print(f"    at equal style called an effect in {told(nonzero, studies)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50 studies a setting instead of 500")
    studies, started = 50 if parser.parse_args().quick else 500, time.perf_counter()
    print(f"{studies} studies a setting; Wilson's 95 % intervals for that number\n\n1. coverage of nominal 95 % intervals of a share")
    for setting in COVERAGE:
        coverage(setting, studies)
    print("\n2. no preference for a model: false positives, nominal 5 %")
    for setting in NOTHING:
        false_positives(setting, studies)
    print("\n3. tuned answers are longer by 0.3; 60 raters x 12 votes on 240 questions, sd 0.5/0.5")
    for model, length in ((0.0, 2.0), (0.5, 2.0), (-0.5, 2.0), (1.0, 0.0)):
        recovery(model, length, studies)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    entry(main)
