"""The mixed model against what is known: simulated truths, quadrature, and its own finite differences.  .venv/bin/python -m pytest tests/test_glmm.py"""

import numpy as np
import pytest
from scipy import special, stats

from eval import glmm


def votes(seed: int, raters: int, questions: int, n: int, beta=(0.7,), sds=(0.8, 0.5)):
    rng = np.random.default_rng(seed)
    rater, question = rng.permutation(np.arange(n) % raters), rng.permutation(np.arange(n) % questions)
    x = np.column_stack([np.ones(n), *(rng.normal(size=n) for _ in beta[1:])])
    eta = x @ np.array(beta) + sds[0] * rng.normal(size=raters)[rater] + sds[1] * rng.normal(size=questions)[question]
    return (rng.random(n) < special.expit(eta)).astype(float), x, [rater, question]


@pytest.mark.parametrize("factors", [1, 2, 3])
@pytest.mark.parametrize("s", [0.0, 0.9])
def test_the_gradient_is_that_of_the_likelihood(factors, s):
    y, x, groups = votes(1, 15, 40, 300, (0.3, 0.5))
    model = glmm.Laplace(y, x, [*groups, np.arange(300) % 7][:factors])
    at = np.array([0.2, -0.3, *np.linspace(s, 0.5, factors)])
    _, gradient = model(at)
    differences = [(model(at + 1e-5 * e)[0] - model(at - 1e-5 * e)[0]) / 2e-5 for e in np.eye(len(at))]
    assert gradient == pytest.approx(differences, abs=2e-5)


SCALES = [(-2, -1, 0, 1, 2), (-2, -1, 1, 2), (-2, 0, 2), (-1, 1)]


def points(seed: int, raters: int, questions: int, n: int, beta=(0.7,), sds=(0.8, 0.5), scale=SCALES[0], first=0.5, gap=1.2):
    """Points of a scale, cut at first, first + gap, … to either side (without a tie: at 0, gap, …)."""
    rng = np.random.default_rng(seed)
    rater, question = rng.permutation(np.arange(n) % raters), rng.permutation(np.arange(n) % questions)
    x = np.column_stack([np.ones(n), *(rng.normal(size=n) for _ in beta[1:])])
    eta = x @ np.array(beta) + sds[0] * rng.normal(size=raters)[rater] + sds[1] * rng.normal(size=questions)[question]
    upper = (first if 0 in scale else 0.0) + gap * np.arange(len(scale) // 2)
    cuts = np.unique(np.concatenate([-upper, upper]))
    return np.array(scale)[np.searchsorted(cuts, eta + rng.logistic(size=n))], x, [rater, question]


@pytest.mark.parametrize("scale", SCALES)
def test_the_probabilities_of_points_are_differences_of_logistic_functions_and_mirror_each_other(scale):
    model, eta = glmm.Cumulative(np.array(scale)), 0.4
    gaps = np.array([0.3, 1.1])[: model.cuts]
    cut = {2: [0.3, 1.4], 1: [0.3], 0: []}[model.cuts]
    cuts = np.array([-np.inf, *(-c for c in reversed(cut)), *([] if 0 in scale else [0.0]), *cut, np.inf])
    expected = np.diff(special.expit(cuts - eta))
    alone = [glmm.Cumulative(np.array(scale)) for _ in scale]
    for level, one in enumerate(alone):
        one.level, one.n = np.array([level]), 1
    assert [np.exp(one.value(np.array([eta]), np.log(gaps))) for one in alone] == pytest.approx(expected)
    assert [np.exp(one.value(np.array([-eta]), np.log(gaps))) for one in alone] == pytest.approx(expected[::-1])
    assert expected.sum() == pytest.approx(1)


@pytest.mark.parametrize("scale", SCALES[:3])
@pytest.mark.parametrize("s", [0.0, 0.9])
def test_the_gradient_of_points_is_that_of_their_likelihood(scale, s):
    y, x, groups = points(1, 15, 40, 300, (0.3, 0.5), scale=scale)
    model = glmm.Laplace(glmm.Cumulative(y), x, groups)
    at = np.array([0.2, -0.3, s, 0.5, *[-0.6, 0.1][: model.votes.cuts]])
    _, gradient = model(at)
    differences = [(model(at + 1e-5 * e)[0] - model(at - 1e-5 * e)[0]) / 2e-5 for e in np.eye(len(at))]
    assert gradient == pytest.approx(differences, abs=2e-5)


def test_two_points_are_the_two_sides():
    y, x, groups = votes(2, 20, 40, 400, (0.7, -0.4))
    mine, two = glmm.Cumulative(2 * y - 1), (glmm.fit(y, x, groups), glmm.fit(glmm.Cumulative(2 * y - 1), x, groups))
    assert mine.cuts == 0 and two[1].coefficients == pytest.approx(two[0].coefficients, abs=1e-4) and two[1].deviance == pytest.approx(two[0].deviance, abs=1e-6)
    plain, points_ = (glmm.clustered(votes_, x, *groups) for votes_ in (y, mine))
    assert points_.coefficients == pytest.approx(plain.coefficients, abs=1e-6)
    assert points_.interval(np.array([1.0, 0])) == pytest.approx(plain.interval(np.array([1.0, 0])), abs=1e-5)


def test_planted_effects_and_cuts_are_found_in_points():
    fits = [glmm.fit(glmm.Cumulative(y), x, groups) for y, x, groups in (points(seed, 25, 80, 1000, (0.5, -0.8), (1.0, 0.7)) for seed in range(3))]
    assert all(found.converged for found in fits)
    for k, truth in enumerate((0.5, -0.8)):
        values, error = np.array([found.coefficients[k] for found in fits]), np.mean([found.errors[k] for found in fits])
        assert abs(values.mean() - truth) < 3 * error / np.sqrt(len(fits))
    assert np.mean([found.sds for found in fits], axis=0) == pytest.approx((1.0, 0.7), abs=0.2)
    y, x, (rater, _) = points(9, 50, 50, 20_000, (0.5,), (0.0, 0.0))
    assert glmm.clustered(glmm.Cumulative(y), x, rater).coefficients == pytest.approx([0.5, np.log(0.5), np.log(1.2)], abs=0.06)


def test_the_clustered_model_estimates_the_effect_over_all_raters_and_not_one_raters():
    # Every possible vote, weighted by its chance: 1.0 to one rater is less to all, by sqrt(1 + 0.346 sd^2) (Zeger, Liang and Albert 1988).
    for sd in (0.0, 0.7, 1.4):
        chance = glmm.marginal(1.0, np.array([sd]))
        found = glmm.clustered(np.full(50_000, chance), np.ones((50_000, 1)), np.arange(50_000)).coefficients[0]
        assert found == pytest.approx(special.logit(chance), abs=1e-4)
        assert found == pytest.approx(1 / np.sqrt(1 + 0.346 * sd**2), rel=0.06)


def test_points_without_any_side_are_refused():
    with pytest.raises(ValueError, match="nothing to fit"):
        glmm.Cumulative(np.zeros(5))


def quadrature(y, rater, beta: float, s: float, nodes: int) -> float:
    """log L of the one-factor model by adaptive Gauss-Hermite quadrature, rater by rater (Pinheiro and Bates 1995)."""
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    total = 0.0
    for g in np.unique(rater):
        wins, n = y[rater == g].sum(), (rater == g).sum()
        b = 0.0
        for _ in range(100):
            p = special.expit(beta + s * b)
            b += (s * (wins - n * p) - b) / (1 + n * s * s * p * (1 - p))
        p = special.expit(beta + s * b)
        spread = np.sqrt(2 / (1 + n * s * s * p * (1 - p)))
        at = b + spread * z
        eta = beta + s * at
        total += special.logsumexp(wins * eta - n * np.logaddexp(0, eta) - at**2 / 2 + z**2, b=weights) + np.log(spread / np.sqrt(2 * np.pi))
    return total


def test_laplace_is_adaptive_quadrature_with_one_node():
    y, x, (rater, _) = votes(2, 20, 30, 400)
    assert glmm.Laplace(y, x, [rater])(np.array([0.4, 0.7]))[0] == pytest.approx(quadrature(y, rater, 0.4, 0.7, 1), abs=1e-8)


def test_with_many_votes_a_rater_laplace_is_the_exact_likelihood():
    y, x, (rater, _) = votes(3, 25, 30, 5000, sds=(0.8, 0.0))
    found = glmm.fit(y, x, [rater])
    exact = [quadrature(y, rater, found.coefficients[0] + d, found.sds[0] + e, 25) for d, e in [(0, 0), (0.02, 0), (-0.02, 0), (0, 0.02), (0, -0.02)]]
    assert -found.deviance / 2 == pytest.approx(exact[0], abs=0.05)
    assert exact[0] == max(exact)


@pytest.mark.parametrize("sds", [(1.0, 0.7), (0.0, 0.7)])
def test_simulated_truths_lie_within_their_errors(sds):
    fits = [glmm.fit(*votes(seed, 25, 80, 1000, (0.5, -0.8), sds)) for seed in range(4)]
    assert all(found.converged for found in fits)
    for k, truth in enumerate((0.5, -0.8)):
        values = np.array([found.coefficients[k] for found in fits])
        mean_error = np.mean([found.errors[k] for found in fits])
        assert abs(values.mean() - truth) < 3 * mean_error / np.sqrt(len(fits))
    assert np.mean([found.sds for found in fits], axis=0) == pytest.approx(sds, abs=0.2)


def test_without_variance_the_errors_are_those_of_plain_regression():
    y = np.tile([1.0, 1.0, 1.0, 0.0], 50)  # every rater and every question alike
    found = glmm.fit(y, np.ones((200, 1)), [np.repeat(np.arange(50), 4)])
    assert found.sds == pytest.approx([0], abs=1e-3)
    assert found.coefficients == pytest.approx([np.log(3)], abs=1e-4)
    assert found.errors == pytest.approx([1 / np.sqrt(200 * 0.75 * 0.25)], abs=1e-4)
    assert found.deviance == pytest.approx(-2 * (150 * np.log(0.75) + 50 * np.log(0.25)), abs=1e-4)


def test_the_order_and_the_names_of_the_factors_do_not_matter():
    y, x, (rater, question) = votes(4, 20, 50, 500)
    one, other = glmm.fit(y, x, [rater, question]), glmm.fit(y, x, [np.array([f"q{i}" for i in question]), np.array([f"r{i:03}" for i in rater])])
    assert other.sds[::-1] == pytest.approx(one.sds, abs=1e-3)
    assert (other.coefficients, other.errors) == (pytest.approx(one.coefficients, abs=1e-3), pytest.approx(one.errors, abs=1e-3))
    assert other.deviance == pytest.approx(one.deviance, abs=1e-5)


def test_a_tie_is_half_a_vote_for_each():
    y, x, groups = votes(5, 20, 40, 400)
    mirrored = glmm.fit(np.concatenate([y, 1 - y]), np.tile(x, (2, 1)), [np.tile(g, 2) for g in groups])
    ties = glmm.fit(np.full(400, 0.5), x, groups)
    assert mirrored.coefficients == pytest.approx([0], abs=1e-5) and ties.coefficients == pytest.approx([0], abs=1e-8)


def test_votes_that_are_all_alike_have_no_estimate():
    assert not glmm.fit(np.ones(40), np.ones((40, 1)), [np.arange(40) % 8]).converged


def test_the_share_over_all_raters_is_nearer_to_a_half_than_the_typical_raters():
    assert glmm.marginal(2.0, np.zeros(1)) == pytest.approx(special.expit(2.0))
    draws = special.expit(2.0 + np.hypot(1.0, 0.5) * np.random.default_rng(1).normal(size=400_000))
    assert glmm.marginal(2.0, np.array([1.0, 0.5])) == pytest.approx(draws.mean(), abs=5e-4)


def test_clustered_errors_of_equal_raters_are_those_of_their_means():
    rng = np.random.default_rng(6)
    shares = rng.integers(2, 9, 30)
    y = np.concatenate([np.r_[np.ones(k), np.zeros(10 - k)] for k in shares])
    found = glmm.clustered(y, np.ones((300, 1)), np.repeat(np.arange(30), 10))
    p = y.mean()
    error = shares.std(ddof=1) / 10 / np.sqrt(30) / (p * (1 - p))  # the delta rule on the standard error of 30 means
    value, low, high = found.interval(np.ones(1))
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, 29) * error, rel=2e-3)
    assert value == pytest.approx(special.logit(p), abs=1e-3)  # the prior pulls by less than this


def test_the_spread_of_a_mean_is_the_jackknife_over_raters():
    y, rater = np.array([1, 1, 1, 0, 1, 0, 0.0]), np.array(["ann", "ann", "ann", "ann", "bob", "bob", "eve"])
    variance, df = glmm.spread((y - y.mean()) / 7, rater)
    left = np.array([1 / 3, 3 / 5, 4 / 6])  # without ann, without bob, without eve
    assert variance == pytest.approx(2 / 3 * ((left - 4 / 7) ** 2).sum()) and df == pytest.approx(49 / 21 - 1)


def test_questions_on_which_raters_agree_widen_the_spread_and_one_rater_has_none():
    rng = np.random.default_rng(7)
    question = np.tile(np.arange(20), 5)
    e = rng.normal(size=20)[question] / 100
    rater = np.repeat(np.arange(5), 20)
    assert glmm.spread(e, rater, question)[0] == pytest.approx(glmm.spread(e, rater)[0] + 20 / 19 * 20 * 25 * (e[:20] ** 2).mean() - 100 / 99 * (e @ e))
    assert np.isnan(glmm.spread(e, np.zeros(100))[0])


def test_the_spread_is_never_below_that_of_the_raters_alone():
    rater, question = np.repeat(np.arange(10), 2), np.tile([0, 1], 10)
    e = np.repeat([1, -1] * 5, 2) * np.tile([1.0, 1.0], 10)  # raters differ, and the questions' sums cancel
    assert glmm.spread(e, rater, question) == glmm.spread(e, rater)
