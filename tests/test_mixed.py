"""The linear mixed model, contrasts and letters against closed forms and definitions.  .venv/bin/python -m pytest tests/test_mixed.py"""

import itertools
import random

import numpy as np
import pytest
from scipy import stats

from eval import mixed


def data(seed=1, n=300, sds=(0.6, 0.4, 1.0), k=4):
    rng = np.random.default_rng(seed)
    a, b, m = rng.permutation(np.arange(n) % 20), rng.permutation(np.arange(n) % 10), rng.integers(0, k, n)
    y = 1 + 0.5 * (m == 2) + sds[0] * rng.normal(size=20)[a] + sds[1] * rng.normal(size=10)[b] + sds[2] * rng.normal(size=n)
    return y, np.eye(k)[m], [a, b]


def test_the_criterion_estimates_and_errors_are_those_of_the_whole_covariance_matrix():
    y, x, groups = data()
    found = mixed.linear(y, x, groups)

    def dense(sds, residual):
        v = residual**2 * np.eye(len(y)) + sum(sd**2 * (g[:, None] == g) for sd, g in zip(sds, groups, strict=True))
        inverse = np.linalg.inv(v)
        information = x.T @ inverse @ x
        beta = np.linalg.solve(information, x.T @ inverse @ y)
        rest = y - x @ beta
        value = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1] + rest @ inverse @ rest + (len(y) - x.shape[1]) * np.log(2 * np.pi)
        return value, beta, np.linalg.inv(information)

    value, beta, covariance = dense(found.sds, found.residual)
    assert found.converged and found.criterion == pytest.approx(value, abs=1e-8)
    assert found.coefficients == pytest.approx(beta, abs=1e-9) and found.covariance == pytest.approx(covariance, abs=1e-9)
    for factor in (0.9, 1.1):  # it is the lowest
        for i in range(2):
            moved = found.sds * np.where(np.arange(2) == i, factor, 1)
            assert dense(moved, found.residual)[0] > value
        assert dense(found.sds, found.residual * factor)[0] > value


def test_with_equal_groups_it_is_the_analysis_of_variance():
    rng = np.random.default_rng(3)
    y = (rng.normal(size=(12, 1)) + rng.normal(size=(12, 8))).reshape(-1)
    found = mixed.linear(y, np.ones((96, 1)), [np.repeat(np.arange(12), 8)])
    means = y.reshape(12, 8).mean(1)
    within, between = ((y.reshape(12, 8) - means[:, None]) ** 2).sum() / 84, 8 * means.var(ddof=1)
    assert found.coefficients == pytest.approx([y.mean()])
    assert [found.residual**2, found.sds[0] ** 2] == pytest.approx([within, (between - within) / 8], rel=1e-4)
    assert found.errors == pytest.approx([np.sqrt(between / 96)], rel=1e-4)


def test_without_variance_between_groups_it_is_least_squares():
    y = np.tile([1.0, 2.0, 4.0, 5.0], 25)
    x = np.eye(2)[np.tile([0, 0, 1, 1], 25)]
    found = mixed.linear(y, x, [np.repeat(np.arange(25), 4)])
    assert found.sds == pytest.approx([0], abs=1e-3) and found.coefficients == pytest.approx([1.5, 4.5])
    assert found.errors == pytest.approx([np.sqrt(0.25 * 100 / 98 / 50)] * 2, rel=1e-4)


def test_what_cannot_be_fitted_is_refused():
    for x in (np.ones((3, 3)), np.ones((4, 2))):
        with pytest.raises(ValueError):
            mixed.linear(np.arange(len(x)), x, [np.arange(len(x))])


def test_walds_test_of_two_models_is_the_square_of_their_contrast():
    beta, covariance = np.array([1.0, 0.4]), np.array([[0.05, 0.01], [0.01, 0.04]])
    [row] = mixed.contrasts(beta, covariance)
    chi2, df, p = mixed.wald(beta, covariance)
    assert (row["z"] ** 2, row["p"]["none"]) == pytest.approx((chi2, p)) and df == 1
    assert list(row["p"].values()) == pytest.approx([p] * 3, rel=1e-6)  # of one contrast there is nothing to correct


def test_walds_test_with_independent_models_is_the_weighted_sum_of_squares():
    beta, variances = np.array([0.3, 1.0, -0.2, 0.5]), np.array([0.1, 0.2, 0.15, 0.3])
    mean = (beta / variances).sum() / (1 / variances).sum()
    chi2, df, p = mixed.wald(beta, np.diag(variances))
    assert (chi2, df) == (pytest.approx(((beta - mean) ** 2 / variances).sum()), 3) and p == pytest.approx(stats.chi2.sf(chi2, 3))


def test_corrections_only_raise_p_and_keep_its_order():
    rng = np.random.default_rng(5)
    for _ in range(20):
        rows = mixed.contrasts(rng.normal(size=5), np.diag(rng.uniform(0.05, 0.3, 5)))
        rows.sort(key=lambda row: row["p"]["none"])
        for how in ("Holm", "Tukey"):
            values = [row["p"][how] for row in rows]
            assert values == sorted(values) and all(row["p"]["none"] <= row["p"][how] <= 1 for row in rows)
        assert rows[0]["p"]["Holm"] == min(1, 10 * rows[0]["p"]["none"])
    # the studentised range of four means, infinite degrees of freedom: 3.633 at 5 % (any table of it)
    [row, *_] = mixed.contrasts(np.array([3.633, 0, 0, 0]), np.eye(4))
    assert row["p"]["Tukey"] == pytest.approx(0.05, abs=2e-5)


@pytest.mark.parametrize("models", [1, 2, 3, 4, 5, 6, 8])
def test_two_models_share_a_letter_if_and_only_if_their_contrast_is_not_significant(models):
    rng = random.Random(models)
    pairs = list(itertools.combinations(range(models), 2))
    for _ in range(150):
        different, order = {pair for pair in pairs if rng.random() < rng.choice((0.2, 0.5, 0.8))}, rng.sample(range(models), models)
        shown = mixed.letters(order, different)
        assert all(shown)  # nobody is without a letter
        for i, j in pairs:
            assert bool(set(shown[i]) & set(shown[j])) == ((i, j) not in different)
        assert shown[order[0]][0] == "A"
        for letter in set("".join(shown)):  # none can be left out
            rest = [text.replace(letter, "") for text in shown]
            assert not all(rest) or any(not set(rest[i]) & set(rest[j]) for i, j in pairs if (i, j) not in different)


def test_letters_go_from_best_to_worst():
    assert mixed.letters([2, 0, 1], set()) == ["A", "A", "A"]
    assert mixed.letters([2, 0, 1], {(0, 1), (1, 2), (0, 2)}) == ["B", "C", "A"]
    assert mixed.letters([2, 0, 1], {(1, 2)}) == ["AB", "B", "A"]


def test_where_the_groups_leave_no_rest_there_is_no_fit():
    assert not mixed.linear(np.repeat([1.0, 2.0, 4.0], 4), np.eye(2)[np.arange(12) % 2], [np.repeat(np.arange(3), 4)]).converged
