"""How many votes and raters a study needs, before it begins: for a difference to be found, and for an interval of a given width.

    make vote-plan                                     # with the pairs, the cap and the votes per item of eval/study.yaml
    python -m eval.voteplan --rate 0.6 --width 0.03 --power 0.9 --raters 50 --per-rater 30
    python -m eval.voteplan --rate 0.896 --against 0.796 --pairs 3      # one pair against another instead of against 50 %

Independent votes
  against 50 %      two-sided test of one share, normal approximation with the null's own variance (Fleiss, Levin and Paik 2003, Statistical Methods for Rates and
                    Proportions, section 2.5): n = ((z_a sqrt(p0 q0) + z_b sqrt(p q)) / (p - p0))^2; the power of the exact binomial test stands beside it.
  against a pair    two-sided test of two independent shares (ibid., section 4.2, without continuity correction):
                    n = ((z_a sqrt(2 P Q) + z_b sqrt(p1 q1 + p2 q2)) / (p1 - p2))^2 for each pair, P the mean of both.
  interval          the smallest n with which Wilson's interval (1927) is no wider than `width` to each side on average: its half width is at most `width`.

Clustering. Votes of one rater are alike, and so are votes on one question. With m votes per rater on a pair, k votes per item, and correlations r of two votes of
one rater and s of two votes on one item, the variance of a share is that of independent votes times the design effect
    1 + (m - 1) r + (k - 1) s
(Kish 1965, Survey Sampling, section 5.4, for one kind of cluster; for two that cross, both add, as the variance of a mean of two random effects is the
sum of theirs). So n votes are worth n / design effect independent ones. That m is the same for all raters is assumed; with a coefficient of variation c of votes
per rater, m becomes m (1 + c^2) (Eldridge, Ashby and Kerry 2006, Int. J. Epidemiol. 35:1292): --uneven c.

r and s are not known before a pilot study. Raters who differ by a standard deviation of 1 on the logit scale have r = 0.17 at a rate of 50 % and 0.09 at
90 %; by one of 0.5, 0.06 and 0.02 (`icc`, by quadrature). The defaults, 0.1 each, are assumptions within that range, to be replaced by what a pilot shows.
Two pairs judged by the same raters are told apart with somewhat fewer votes than said here, since what a rater adds to both cancels; a tie counts as half a
vote for each and narrows the interval. Gold and repeated items come on top of all votes counted here.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm

from datagen.files import UserError, entry
from eval.studyfile import PATH, load
from eval.surface import wilson

# ---------------------------------------------------------------- independent votes


def votes_against(rate: float, null: float, power: float, alpha: float = 0.05) -> int:
    """Votes with which a two-sided test at `alpha` finds that a share `rate` is not `null`, with probability `power` (module docstring)."""
    a, b = norm.isf(alpha / 2), norm.isf(1 - power)
    return math.ceil(((a * math.sqrt(null * (1 - null)) + b * math.sqrt(rate * (1 - rate))) / (rate - null)) ** 2)


def votes_between(rate: float, other: float, power: float, alpha: float = 0.05) -> int:
    """Votes on each of two pairs with which a two-sided test at `alpha` tells their shares `rate` and `other` apart, with probability `power`."""
    a, b, mean = norm.isf(alpha / 2), norm.isf(1 - power), (rate + other) / 2
    return math.ceil(((a * math.sqrt(2 * mean * (1 - mean)) + b * math.sqrt(rate * (1 - rate) + other * (1 - other))) / (rate - other)) ** 2)


def half_width(rate: float, votes: float) -> float:
    """Half the width of Wilson's 95 % interval of a share `rate` of `votes` votes (a number, whole or not)."""
    low, high = wilson(rate * votes, votes)
    return (high - low) / 2


def votes_for_width(rate: float, width: float) -> int:
    """The smallest number of votes with which `half_width` is at most `width`."""
    low, high = 1, 2
    while half_width(rate, high) > width:
        high *= 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if half_width(rate, middle) <= width else (middle + 1, high)
    return low


def power_against(rate: float, null: float, votes: float, alpha: float = 0.05) -> float:
    """Power of the test of `votes_against`, for any number of votes. The far tail is left out: it does not matter where there is power."""
    se0, se = math.sqrt(null * (1 - null) / votes), math.sqrt(rate * (1 - rate) / votes)
    return float(norm.cdf((abs(rate - null) - norm.isf(alpha / 2) * se0) / se))


def power_between(rate: float, other: float, votes: float, alpha: float = 0.05) -> float:
    """Power of the test of `votes_between` with `votes` votes on each pair."""
    mean = (rate + other) / 2
    se0, se = math.sqrt(2 * mean * (1 - mean) / votes), math.sqrt((rate * (1 - rate) + other * (1 - other)) / votes)
    return float(norm.cdf((abs(rate - other) - norm.isf(alpha / 2) * se0) / se))


def exact_power(rate: float, null: float, votes: int, alpha: float = 0.05) -> float:
    """Power of the exact two-sided binomial test that rejects at most alpha / 2 in each tail."""
    low = binom.ppf(alpha / 2, votes, null) - 1  # the largest count whose lower tail is below alpha / 2
    low += binom.cdf(low + 1, votes, null) <= alpha / 2
    high = binom.isf(alpha / 2, votes, null) + 1
    return float(binom.cdf(low, votes, rate) + binom.sf(high - 1, votes, rate))


# ---------------------------------------------------------------- clustering


def icc(rate: float, sd: float) -> float:
    """Correlation of two votes of one rater, where raters differ by `sd` on the logit scale and choose the tuned model in a share `rate` of votes on average:
    Var(p) / (rate (1 - rate)), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def shares(centre: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(centre + sd * nodes)))

    low, high = -20.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ shares(middle) < rate else (low, middle)
    p = shares(low)
    return float(weights @ (p - rate) ** 2 / (rate * (1 - rate)))


@dataclass(frozen=True)
class Clusters:
    """What the design effect depends on besides the votes per rater."""

    pairs: int
    per_item: int
    icc: float  # of two votes of one rater
    icc_item: float  # of two votes on one item
    uneven: float = 0.0  # coefficient of variation of votes per rater

    def effect(self, per_rater: float) -> float:
        """Design effect with `per_rater` votes of a rater on all pairs together. A rater sees the pairs equally often."""
        m = per_rater / self.pairs * (1 + self.uneven**2)
        return 1 + max(0.0, m - 1) * self.icc + (self.per_item - 1) * self.icc_item

    def votes(self, independent: int, per_rater: float) -> int:
        """Votes on a pair that are worth `independent` ones."""
        return math.ceil(independent * self.effect(per_rater) - 1e-9)

    def per_rater(self, independent: int, raters: int) -> int | None:
        """The fewest votes each of `raters` has to cast, on all pairs together; None where no number suffices, as each further vote says less."""
        # Up to one vote on a pair a rater adds no cluster; from there on the votes needed, independent * effect(x), are linear in x, as are the votes cast.
        fixed = 1 + (self.per_item - 1) * self.icc_item
        alone = independent * fixed * self.pairs / raters
        slope = raters / self.pairs - independent * self.icc * (1 + self.uneven**2) / self.pairs
        if alone * (1 + self.uneven**2) <= self.pairs:
            return math.ceil(alone - 1e-9)
        return None if slope <= 0 else math.ceil(independent * (fixed - self.icc) / slope - 1e-9)


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Goal:
    name: str
    independent: int  # votes on each pair


@dataclass(frozen=True)
class Need:
    goal: Goal
    votes: int  # on each pair, at the cap
    raters: int  # at the cap
    questions: int
    each: int | None  # votes of each of the raters there are; None: no number suffices


def goals(rate: float, against: float, width: float, power: float, alpha: float) -> list[Goal]:
    if against == 0.5:
        find = Goal(f"find that {rate:.1%} is not 50 %, power {power:.0%}", votes_against(rate, 0.5, power, alpha))
    else:
        find = Goal(f"tell {rate:.1%} from a pair at {against:.1%}, power {power:.0%}", votes_between(rate, against, power, alpha))
    return [find, Goal(f"interval of {rate:.1%} ± {100 * width:g} points or narrower", votes_for_width(rate, width))]


def need(goal: Goal, clusters: Clusters, raters: int, cap: int) -> Need:
    votes = clusters.votes(goal.independent, cap)
    return Need(goal, votes, math.ceil(votes * clusters.pairs / cap), math.ceil(votes / clusters.per_item), clusters.per_rater(goal.independent, raters))


def warnings(needs: list[Need], raters: int, cap: int) -> list[str]:
    """One line for each goal that `raters` raters cannot reach within the cap."""
    lines = []
    for one in needs:
        if one.each is None:
            lines.append(f"{raters} raters cannot reach this however much they vote ({one.goal.name}): with what they share, further votes of theirs add too little")
        elif one.each > cap:
            lines.append(f"each of {raters} raters would have to cast {one.each} votes, over the cap of {cap} ({one.goal.name}): {one.raters} raters are needed")
    return lines


def checked(args: argparse.Namespace) -> None:
    for name, low, high in (("rate", 0, 1), ("against", 0, 1), ("width", 0, 0.5), ("power", 0.05, 1), ("alpha", 0, 0.5)):
        if not low < getattr(args, name) < high:
            raise UserError(f"--{name} {getattr(args, name):g}: expected a share between {low} and {high}")
    for name in ("icc", "icc_item"):
        if not 0 <= getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name):g}: expected a correlation from 0 to below 1")
    for name in ("raters", "per_rater", "pairs", "per_item"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: expected a number from 1 on")
    if args.uneven < 0:
        raise UserError(f"--uneven {args.uneven:g}: expected a coefficient of variation, from 0 on")
    if args.rate == args.against:
        raise UserError(f"--rate {args.rate:g} is what it is compared with: no number of votes finds a difference that is not there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.6, help="share of votes for the tuned model that is expected (default: 0.6)")
    parser.add_argument("--against", type=float, default=0.5, help="what it is compared with: 0.5 (default), or the share of another pair")
    parser.add_argument("--width", type=float, default=0.03, help="of the 95 %% interval, to each side (default: 0.03)")
    parser.add_argument("--power", type=float, default=0.9)
    parser.add_argument("--alpha", type=float, default=0.05, help="of the test, two-sided; with several pairs, divide it by their number for all claims together")
    parser.add_argument("--raters", type=int, default=50, help="raters who can be had (default: 50)")
    parser.add_argument("--icc", type=float, default=0.1, help="correlation of two votes of one rater on a pair (default: 0.1, an assumption)")
    parser.add_argument("--icc-item", type=float, default=0.1, help="correlation of two votes on one item (default: 0.1, an assumption)")
    parser.add_argument("--uneven", type=float, default=0.0, help="coefficient of variation of votes per rater (default: 0, all vote equally often)")
    parser.add_argument("--study", type=Path, default=PATH, help="gives the three below where they are not given (default: eval/study.yaml)")
    parser.add_argument("--per-rater", type=int, help="the most votes of a rater, on all pairs together")
    parser.add_argument("--pairs", type=int, help="pairs of models")
    parser.add_argument("--per-item", type=int, help="votes per item")
    args = parser.parse_args()
    if None in (args.per_rater, args.pairs, args.per_item):
        study = load(args.study)
        for name, value in (("per_rater", study.per_rater), ("pairs", len(study.runs)), ("per_item", study.votes_per_item)):
            setattr(args, name, getattr(args, name) if getattr(args, name) is not None else value)
    checked(args)

    clusters = Clusters(args.pairs, args.per_item, args.icc, args.icc_item, args.uneven)
    effect = clusters.effect(args.per_rater)
    needs = [need(goal, clusters, args.raters, args.per_rater) for goal in goals(args.rate, args.against, args.width, args.power, args.alpha)]
    print(f"{args.pairs} pair(s), {args.per_item} votes per item, at most {args.per_rater} votes per rater ({args.per_rater / args.pairs:.3g} on each pair)")
    print(
        f"assumed: correlation {args.icc:g} of two votes of one rater, {args.icc_item:g} of two on one item"
        + (f", votes per rater vary by {args.uneven:.0%}" if args.uneven else "")
    )
    print(f"design effect at the cap: {effect:.2f}, so 100 votes are worth {100 / effect:.0f} independent ones\n")
    print(f"{'':58} {'independent':>12} {'votes on':>10} {'questions':>10} {'votes on':>10} {'raters':>8} {'each of':>9}")
    print(f"{'to':58} {'votes':>12} {'each pair':>10} {'per pair':>10} {'all pairs':>10} {'at cap':>8} {f'{args.raters} casts':>9}")
    for one in needs:
        each = "-" if one.each is None else str(one.each)
        print(f"{one.goal.name:58} {one.goal.independent:>12} {one.votes:>10} {one.questions:>10} {one.votes * args.pairs:>10} {one.raters:>8} {each:>9}")
    worth = args.raters * args.per_rater / args.pairs / effect
    power = power_against(args.rate, 0.5, worth, args.alpha) if args.against == 0.5 else power_between(args.rate, args.against, worth, args.alpha)
    print(
        f"\n{args.raters} raters at the cap cast {args.raters * args.per_rater // args.pairs} votes on each pair, worth {worth:.0f}: "
        f"power {power:.0%}, interval ± {100 * half_width(args.rate, worth):.1f} points"
    )
    if args.against == 0.5:
        n = needs[0].goal.independent
        print(f"exact binomial test of {n} independent votes: power {exact_power(args.rate, 0.5, n, args.alpha):.1%}")
    for line in warnings(needs, args.raters, args.per_rater):
        print(f"warning: {line}", file=sys.stderr)


if __name__ == "__main__":
    entry(main)
