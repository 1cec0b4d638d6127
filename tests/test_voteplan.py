"""The plan's formulas against known values, exact sums and a simulation.  .venv/bin/python -m pytest tests/test_voteplan.py"""

import numpy as np
import pytest
from conftest import ROOT, inside, one_line
from scipy.stats import binom

from eval import voteplan
from eval.surface import wilson
from eval.voteplan import Clusters, Goal


def test_votes_against_one_half_are_those_of_the_textbook():
    assert [voteplan.votes_against(rate, 0.5, 0.9) for rate in (0.55, 0.6, 0.65)] == [1047, 259, 113]
    assert voteplan.votes_against(0.4, 0.5, 0.9) == 259 and voteplan.votes_between(0.896, 0.796, 0.9) == 272 == voteplan.votes_between(0.796, 0.896, 0.9)


@pytest.mark.parametrize(("rate", "power"), [(0.55, 0.9), (0.6, 0.9), (0.65, 0.8), (0.9, 0.9)])
def test_the_power_of_the_planned_votes_is_what_was_asked_for(rate, power):
    n = voteplan.votes_against(rate, 0.5, power)
    assert voteplan.power_against(rate, 0.5, n) >= power > voteplan.power_against(rate, 0.5, n - 1)
    m = voteplan.votes_between(rate, 0.45, power)
    assert voteplan.power_between(rate, 0.45, m) >= power > voteplan.power_between(rate, 0.45, m - 1)


@pytest.mark.parametrize("n", [20, 113, 259, 1047])
def test_exact_power_is_the_sum_over_all_counts_that_the_exact_test_rejects(n):
    counts = np.arange(n + 1)
    rejects = (binom.cdf(counts, n, 0.5) <= 0.025) | (binom.sf(counts - 1, n, 0.5) <= 0.025)
    assert voteplan.exact_power(0.6, 0.5, n) == pytest.approx(binom.pmf(counts, n, 0.6)[rejects].sum(), abs=1e-12)
    assert voteplan.exact_power(0.5, 0.5, n) <= 0.05


def test_the_normal_approximation_is_near_the_exact_power():
    for rate in (0.55, 0.6, 0.65):
        assert voteplan.exact_power(rate, 0.5, voteplan.votes_against(rate, 0.5, 0.9)) == pytest.approx(
            0.9, abs=0.025
        )  # counts are whole, so the exact test rejects a little less


def test_votes_for_a_width_are_the_fewest_with_that_wilson_interval():
    for rate, width in ((0.5, 0.03), (0.9, 0.03), (0.6, 0.05), (0.99, 0.01)):
        n = voteplan.votes_for_width(rate, width)
        low, high = wilson(rate * n, n)
        assert (high - low) / 2 <= width < voteplan.half_width(rate, n - 1)
    assert voteplan.votes_for_width(0.5, 0.03) == 1064


def test_design_effect_is_one_for_single_votes_and_grows_with_each_cluster():
    assert Clusters(1, 1, 0.1, 0.2).effect(1) == 1 and Clusters(3, 1, 0.1, 0.2).effect(3) == 1 == Clusters(1, 3, 0.0, 0.0).effect(30)
    assert Clusters(1, 1, 0.1, 0.0).effect(11) == pytest.approx(2.0) and Clusters(1, 3, 0.1, 0.2).effect(11) == pytest.approx(2.4)
    assert Clusters(3, 3, 0.1, 0.1).effect(30) == pytest.approx(1 + 0.9 + 0.2) and Clusters(1, 1, 0.1, 0, uneven=1).effect(11) == pytest.approx(3.1)


@pytest.mark.parametrize("clusters", [Clusters(1, 1, 0.1, 0.0), Clusters(3, 3, 0.1, 0.1), Clusters(2, 2, 0.05, 0.2, 0.5), Clusters(3, 1, 0.3, 0.0)])
@pytest.mark.parametrize("raters", [20, 60, 150, 2000])
def test_votes_of_each_rater_are_the_fewest_that_suffice(clusters, raters):
    def worth(each):
        return raters * each / clusters.pairs / clusters.effect(each)

    each = clusters.per_rater(259, raters)
    if each is None:
        assert worth(10**7) < 259
    else:
        assert worth(each) >= 259 - 1e-6 and (each == 1 or worth(each - 1) < 259)


def test_intra_rater_correlation_is_that_of_simulated_raters():
    rng = np.random.default_rng(1)
    for rate, sd in ((0.5, 1.0), (0.9, 1.0), (0.6, 0.5)):
        centre = {0.5: 0.0}.get(rate)
        raters = rng.normal(0, sd, 100_000)
        if centre is None:
            low, high = 0.0, 5.0
            for _ in range(30):
                centre = (low + high) / 2
                low, high = (centre, high) if (1 / (1 + np.exp(-centre - raters))).mean() < rate else (low, centre)
        shares = 1 / (1 + np.exp(-centre - raters))
        assert voteplan.icc(rate, sd) == pytest.approx(shares.var() / (rate * (1 - rate)), rel=0.02)
    assert [round(voteplan.icc(rate, sd), 2) for rate, sd in ((0.5, 1), (0.9, 1), (0.5, 0.5), (0.9, 0.5))] == [0.17, 0.09, 0.06, 0.02]


def simulate(rng, raters, each, per_item, rate, icc, icc_item, studies=1500):
    """Shares of studies in which raters and items shift the chance of a vote: variances icc and icc_item of rate (1 - rate). The shifts are
    two-valued, so that no chance leaves 0 to 1."""
    sd = np.sqrt(rate * (1 - rate))
    items = raters * each // per_item
    shares = np.empty(studies)
    for i in range(studies):
        of_item = rng.permutation(np.repeat(np.arange(items), per_item)).reshape(raters, each)
        p = rate + sd * np.sqrt(icc) * rng.choice([-1, 1], raters)[:, None] + sd * np.sqrt(icc_item) * rng.choice([-1, 1], items)[of_item]
        shares[i] = (rng.random((raters, each)) < p).mean()
    return shares


def test_simulated_clustered_votes_have_the_variance_and_the_power_of_the_plan():
    rate, clusters = 0.6, Clusters(1, 3, 0.1, 0.05)
    each = 12
    votes = clusters.votes(voteplan.votes_against(rate, 0.5, 0.9), each)
    raters = -(-votes // each)
    shares = simulate(np.random.default_rng(1), raters, each, 3, rate, 0.1, 0.05)
    n, effect = raters * each, clusters.effect(each)
    assert shares.var() * n / (rate * (1 - rate)) == pytest.approx(effect, rel=0.12)  # the standard error of a variance of 1500 studies is 3.7 %
    power = (np.abs(shares - 0.5) > 1.959964 * np.sqrt(0.25 * effect / n)).mean()
    low, high = wilson(int(power * len(shares)), len(shares))
    assert low - 0.01 < 0.9 < high + 0.01


def test_under_no_effect_the_planned_test_rejects_in_one_study_of_twenty():
    clusters, raters, each = Clusters(1, 3, 0.1, 0.05), 60, 12
    shares = simulate(np.random.default_rng(2), raters, each, 3, 0.5, 0.1, 0.05)
    rejected = (np.abs(shares - 0.5) > 1.959964 * np.sqrt(0.25 * clusters.effect(each) / (raters * each))).mean()
    low, high = wilson(int(rejected * len(shares)), len(shares))
    assert low < 0.05 < high


def test_more_votes_than_the_cap_are_a_warning_and_so_are_too_few_raters():
    clusters = Clusters(1, 1, 0.1, 0.0)
    many, none = voteplan.need(Goal("x", 259), clusters, 30, 10), voteplan.need(Goal("y", 259), clusters, 25, 10)
    assert many.each == 57
    assert none.each is None and voteplan.need(Goal("z", 259), clusters, 60, 30).each <= 30
    lines = voteplan.warnings([many, none], 30, 10)
    assert f"cast {many.each} votes, over the cap of 10 (x): {many.raters} raters are needed" in lines[0] and "cannot reach this however much they vote (y)" in lines[1]
    assert voteplan.warnings([voteplan.need(Goal("z", 259), clusters, 60, 30)], 60, 30) == []


def plan(*arguments, status=0):
    return inside("eval.voteplan", "--study", ROOT / "eval/study.yaml", *arguments, status=status)


def test_the_table_states_what_was_assumed_and_gives_votes_and_raters():
    done = plan("--rate", 0.6, "--per-rater", 30, "--pairs", 3, "--per-item", 3, "--raters", 150)
    assert "correlation 0.1 of two votes of one rater, 0.1 of two on one item" in done.stdout and "design effect at the cap: 2.10" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("find that 60.0% is not 50 %")).split()
    assert row[-6:] == ["259", "544", "182", "1632", "55", "7"] and "find that" not in done.stderr


def test_impossible_plans_are_one_line():
    assert "no number of votes finds a difference" in one_line(plan("--rate", 0.5, status=1))
    assert "--width 0.7" in one_line(plan("--width", 0.7, status=1))
    assert "--raters 0" in one_line(plan("--raters", 0, status=1))
