"""What a mixed model says of several models: a linear one with crossed random intercepts, Wald tests, contrasts of all pairs, and letters.

    from eval.mixed import contrasts, letters, linear, wald
    found = linear(y, x, [participant, persona])       # y = x beta + u[participant] + v[persona] + e, all normal; REML
    wald(found.coefficients, found.covariance)         # (chi2, df, p) of "all coefficients are equal"

With one column of `x` for each model (cell means) a difference of two models is a difference of two coefficients. `eval.glmm.fit` gives the same
two arrays, coefficients and covariance, for yes and no.

The linear model is that of Bates, Maechler, Bolker and Walker (2015, J. Stat. Soft. 67(1), sections 3.2 and 3.4): with spherical effects and T the standard
deviations of the intercepts relative to that of e, L L' = T Z'Z T + I, the effects are integrated out, beta and the residual variance are profiled out, and what
is left, the REML criterion, is a function of one number a factor. Standard errors are Wald's, as if T were known.
"""

import itertools
import string
from dataclasses import dataclass

import numpy as np
from scipy import linalg, optimize, stats

ADJUSTMENTS = ("none", "Holm", "Tukey")
MOST = 1e3  # standard deviation of an intercept in units of that of e; beyond it there is no e left, and no error to speak of


@dataclass(frozen=True)
class Linear:
    coefficients: np.ndarray  # [p]
    covariance: np.ndarray  # [p, p]
    sds: np.ndarray  # [factors] of the random intercepts, in the units of y; 0 where the data show no variance
    residual: float  # standard deviation of e
    criterion: float  # REML criterion, -2 log of the restricted likelihood
    n: int
    converged: bool  # False where the search ended early or the groups explain y without rest; the numbers are then not to be used

    @property
    def errors(self) -> np.ndarray:
        return np.sqrt(np.diag(self.covariance))


def linear(y: np.ndarray, x: np.ndarray, groups: list[np.ndarray]) -> Linear:
    """y [n] on x [n, p] with an intercept for each level of each of `groups`, labels [n]. Raises ValueError where x has no full rank or n <= p."""
    y, x = np.asarray(y, float), np.asarray(x, float)
    n, p = x.shape
    if n <= p or np.linalg.matrix_rank(x) < p:
        raise ValueError("a linear model needs more observations than coefficients, and columns that do not depend on each other")
    codes = [np.unique(group, return_inverse=True)[1] for group in groups]
    z = np.concatenate([np.eye(int(code.max()) + 1)[code] for code in codes], axis=1)
    sizes = [int(code.max()) + 1 for code in codes]
    zz, zx, zy, xx, xy, yy = z.T @ z, z.T @ x, z.T @ y, x.T @ x, x.T @ y, float(y @ y)

    def solved(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray, float]:
        """(criterion, beta, R of its information, residual variance) at relative standard deviations theta [factors]."""
        t = np.repeat(theta, sizes)
        lower = np.linalg.cholesky(t[:, None] * zz * t + np.eye(len(t)))
        rx, ry = (linalg.solve_triangular(lower, (t * part.T).T, lower=True) for part in (zx, zy))
        r = linalg.cholesky(xx - rx.T @ rx)
        c = linalg.solve_triangular(r, xy - rx.T @ ry, trans="T")
        rest = max(yy - ry @ ry - c @ c, 1e-300)
        value = 2 * np.log(np.diag(lower)).sum() + 2 * np.log(np.diag(r)).sum() + (n - p) * (1 + np.log(2 * np.pi * rest / (n - p)))
        return float(value), linalg.solve_triangular(r, c), r, rest / (n - p)

    starts = ([0.3] * len(groups), [1.0] * len(groups))  # the criterion may have two hollows: one of them at a variance of 0
    fits = [
        optimize.minimize(
            lambda at: solved(np.abs(at))[0] if np.abs(at).max() < MOST else np.inf, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000}
        )
        for start in starts
    ]
    found = min(fits, key=lambda one: one.fun)
    value, beta, r, variance = solved(np.abs(found.x))
    inverse = linalg.solve_triangular(r, np.eye(p))
    return Linear(
        beta,
        variance * inverse @ inverse.T,
        np.abs(found.x) * np.sqrt(variance),
        float(np.sqrt(variance)),
        value,
        n,
        bool(found.success and np.abs(found.x).max() < 0.9 * MOST),
    )


# ---------------------------------------------------------------- tests


def wald(coefficients: np.ndarray, covariance: np.ndarray) -> tuple[float, int, float]:
    """(chi2, degrees of freedom, p) of the hypothesis that all coefficients are equal (Wald 1943). chi2 / df is the F that reports of linear models print."""
    k = len(coefficients)
    if k < 2:
        return 0.0, 0, 1.0
    c = np.eye(k)[:-1] - np.eye(k)[1:]
    difference = c @ coefficients
    chi2 = float(difference @ np.linalg.solve(c @ covariance @ c.T, difference))
    return chi2, k - 1, float(stats.chi2.sf(chi2, k - 1))


def contrasts(coefficients: np.ndarray, covariance: np.ndarray) -> list[dict]:
    """The difference of every two coefficients, (i, j) with i < j: value, error, z, and p for each of ADJUSTMENTS.

    Tukey: the studentised range with infinite degrees of freedom, P(Q_k > sqrt(2) |z|); exact only where all differences have the same error. Holm 1979."""
    k, rows = len(coefficients), []
    for i, j in itertools.combinations(range(k), 2):
        value = float(coefficients[i] - coefficients[j])
        error = float(np.sqrt(covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]))
        z = value / error
        alone = float(2 * stats.norm.sf(abs(z)))
        tukey = float(stats.studentized_range.sf(abs(z) * np.sqrt(2), k, np.inf))  # by quadrature: far out it could fall below `alone`, which it cannot
        p = {"none": alone, "Holm": None, "Tukey": min(1.0, max(tukey, alone))}
        rows.append({"i": i, "j": j, "value": value, "interval": [value - 1.959964 * error, value + 1.959964 * error], "error": error, "z": z, "p": p})
    highest = 0.0
    for rank, row in enumerate(sorted(rows, key=lambda row: row["p"]["none"])):
        highest = row["p"]["Holm"] = max(highest, min(1.0, (len(rows) - rank) * row["p"]["none"]))
    return rows


def letters(order: list[int], different: set[tuple[int, int]]) -> list[str]:
    """A compact letter display: for each model 0 … k - 1 its letters. Two share a letter if and only if their pair is not in `different`.

    Insert and absorb (Piepho 2004, J. Comput. Graph. Stat. 13:456): from one column that holds all models, every differing pair splits each column that
    holds both in two, one without each; a column within another is dropped. What is left is every largest set without a differing pair, so the
    property holds whatever is in `different`. Then the columns that cover no pair of their own are swept out. `order` names models from best to worst: A goes
    to the column of the best."""
    different = {frozenset(pair) for pair in different}
    columns = [frozenset(order)]
    for pair in different:
        split = [part for column in columns for part in ([column - {one} for one in pair] if pair <= column else [column])]
        columns = [column for column in set(split) if not any(column < other for other in split)]
    rank = {model: place for place, model in enumerate(order)}
    columns.sort(key=lambda column: sorted(map(rank.get, column)))
    covers = lambda column: {frozenset(pair) for pair in itertools.combinations_with_replacement(column, 2)}  # noqa: E731
    for column in sorted(columns, key=len):
        if covers(column) <= set().union(*(covers(other) for other in columns if other is not column)):
            columns = [other for other in columns if other is not column]
    names = list(string.ascii_uppercase) + [one + other for one in string.ascii_uppercase for other in string.ascii_lowercase]
    return ["".join(name for name, column in zip(names, columns, strict=False) if model in column) for model in range(len(order))]


def differing(rows: list[dict], adjustment: str, alpha: float = 0.05) -> set[tuple[int, int]]:
    """The pairs whose contrast is significant."""
    return {(row["i"], row["j"]) for row in rows if row["p"][adjustment] < alpha}
