"""Logistic regression for votes: a mixed model with crossed random intercepts, and a plain one whose errors are clustered by rater.

    from eval.glmm import clustered, fit
    fit(y, x, [rater, question])          # logit P(y) = x beta + u[rater] + v[question],  u ~ N(0, s1^2), v ~ N(0, s2^2)

The mixed model is fitted by the Laplace approximation (Tierney and Kadane 1986; Breslow and Clayton 1993), as glmmTMB and lme4 fit it by default. With
spherical effects b, Z' S for the random design times its standard deviations, and H = I + S Z W Z' S at the mode of b,

    log L(beta, s) = sum_i log p(y_i | eta_i) - b'b / 2 - log det(H) / 2.

H is never formed: the block of the factor with most levels is diagonal, because a vote has one level of it, and is eliminated by its Schur complement;
what is factored has the size of the other factors only. The gradient is exact, also for what the mode does when beta or s change.

A tie is y = 1/2, for which log p = (log p(0) + log p(1)) / 2. The item variance of data with about one vote an item cannot be told, and
Laplace is biased there: the caller has to see to it that a factor has a few votes a level. Results are plain arrays; nothing is written.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

PRIOR = 5.0  # of `clustered`: standard deviation of the normal prior of each coefficient; a logit of 5 is odds of 148 to 1
STEP = 1e-4  # of the differences of the gradient that give the standard errors
NEWTON = 200  # steps; concave, so it needs about six


@dataclass(frozen=True)
class Fit:
    coefficients: np.ndarray  # [p]
    errors: np.ndarray  # [p] standard errors, with the random effects' standard deviations estimated too
    covariance: np.ndarray  # [p, p]
    sds: np.ndarray  # [factors] standard deviations of the random intercepts, on the logit scale; 0 where the data show no variance
    deviance: float  # -2 log L
    n: int
    converged: bool


class Laplace:
    """log L and its gradient at any (beta, s) for y [n] in [0, 1], x [n, p] and groups, a list of integer codes [n] from 0, one list a factor."""

    def __init__(self, y: np.ndarray, x: np.ndarray, groups: list[np.ndarray]):
        if not groups or any(len(g) != len(y) for g in groups) or len(x) != len(y):
            raise ValueError("y, x and every factor need one value a vote, and there has to be a factor")
        self.y, self.x, self.p = np.asarray(y, float), np.asarray(x, float), x.shape[1]
        sizes = [int(np.max(g)) + 1 for g in groups]
        self.order = sorted(range(len(groups)), key=lambda k: -sizes[k])  # the largest first: it is the one eliminated
        self.big, self.nbig = np.asarray(groups[self.order[0]]), sizes[self.order[0]]
        offsets = np.concatenate([[0], np.cumsum([sizes[k] for k in self.order[1:]])]).astype(int)
        self.rest, self.nrest = [np.asarray(groups[k]) + offset for k, offset in zip(self.order[1:], offsets, strict=False)], int(offsets[-1])
        self.b = (np.zeros(self.nbig), np.zeros(self.nrest))  # where the last mode was: a warm start

    def effects(self, s: np.ndarray, b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """[n] S Z b"""
        return s[0] * b[0][self.big] + sum((sk * b[1][g] for sk, g in zip(s[1:], self.rest, strict=True)), np.zeros(len(self.y)))

    def gather(self, s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S Z' values, for both blocks."""
        small = np.zeros(self.nrest)
        for sk, g in zip(s[1:], self.rest, strict=True):
            small += sk * np.bincount(g, values, self.nrest)
        return s[0] * np.bincount(self.big, values, self.nbig), small

    def blocks(self, s: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(diagonal [big], B [big, rest], Schur complement [rest, rest]) of H"""
        m = self.nrest
        diagonal = 1 + s[0] ** 2 * np.bincount(self.big, w, self.nbig)
        cross, corner = np.zeros((self.nbig, m)), np.eye(m)
        for sk, g in zip(s[1:], self.rest, strict=True):
            cross += s[0] * sk * np.bincount(self.big * m + g, w, self.nbig * m).reshape(self.nbig, m)
            for sl, h in zip(s[1:], self.rest, strict=True):
                corner += sk * sl * np.bincount(g * m + h, w, m * m).reshape(m, m)
        return diagonal, cross, corner - cross.T @ (cross / diagonal[:, None])

    @staticmethod
    def solve(blocks: tuple, g: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """H^-1 g"""
        diagonal, cross, schur = blocks
        small = np.linalg.solve(schur, g[1] - cross.T @ (g[0] / diagonal))
        return (g[0] - cross @ small) / diagonal, small

    def mode(self, fixed: np.ndarray, s: np.ndarray) -> tuple[tuple, np.ndarray]:
        """(b, eta) where the joint density of y and b is highest, by Newton's method with halved steps."""

        def height(b: tuple) -> tuple[float, np.ndarray]:
            eta = fixed + self.effects(s, b)
            return float(self.y @ eta - np.logaddexp(0, eta).sum() - (b[0] @ b[0] + b[1] @ b[1]) / 2), eta

        b = self.b
        now, eta = height(b)
        for _ in range(NEWTON):
            p = special.expit(eta)
            g = self.gather(s, self.y - p)
            g = (g[0] - b[0], g[1] - b[1])
            if max(np.abs(part).max(initial=0) for part in g) < 1e-10:
                break
            step, size = self.solve(self.blocks(s, p * (1 - p)), g), 1.0
            while True:
                moved = (b[0] + size * step[0], b[1] + size * step[1])
                then, eta_then = height(moved)
                if then >= now - 1e-12 * abs(now) or size < 1e-6:
                    break
                size /= 2
            b, now, eta = moved, then, eta_then
        self.b = b
        return b, eta

    def __call__(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """(log L, its gradient) at parameters [p + factors]: beta, then the standard deviations, largest factor first. s and -s are the same model."""
        beta, s = parameters[: self.p], parameters[self.p :]
        b, eta = self.mode(self.x @ beta, s)
        p = special.expit(eta)
        w, residual = p * (1 - p), self.y - p
        blocks = self.blocks(s, w)
        diagonal, cross, schur = blocks
        value = self.y @ eta - np.logaddexp(0, eta).sum() - (b[0] @ b[0] + b[1] @ b[1]) / 2 - (np.log(diagonal).sum() + np.linalg.slogdet(schur)[1]) / 2

        # The entries of H^-1 that votes touch: reach[k] is, for each vote, the row of its level of factor k in H^-1 S Z'.
        inner = np.linalg.inv(schur)
        scaled = cross / diagonal[:, None]
        corner = scaled @ inner
        own = 1 / diagonal + (corner * scaled).sum(1)
        reach = [s[0] * own[self.big] - sum((sk * corner[self.big, g] for sk, g in zip(s[1:], self.rest, strict=True)), np.zeros(len(w)))]
        for g in self.rest:
            reach.append(-s[0] * corner[self.big, g] + sum(sl * inner[g, h] for sl, h in zip(s[1:], self.rest, strict=True)))
        leverage = sum(sk * r for sk, r in zip(s, reach, strict=True))
        slope = w * (1 - 2 * p) * leverage  # d log det(H) / d eta

        def through_mode(eta_fixed: np.ndarray, extra: tuple | None = None) -> np.ndarray:
            """[n] d eta when eta moves by eta_fixed with b held, and b follows."""
            g = self.gather(s, w * eta_fixed)
            g = (-g[0], -g[1]) if extra is None else (extra[0] - g[0], extra[1] - g[1])
            return eta_fixed + self.effects(s, self.solve(blocks, g))

        gradient = [residual @ column - slope @ through_mode(column) / 2 for column in self.x.T]
        for k, codes in enumerate([self.big, *self.rest]):
            effect = (b[0] if k == 0 else b[1])[codes]
            size = self.nbig if k == 0 else self.nrest
            pull = np.bincount(codes, residual, size)
            extra = (pull, np.zeros(self.nrest)) if k == 0 else (np.zeros(self.nbig), pull)
            gradient.append(residual @ effect - w @ reach[k] - slope @ through_mode(effect, extra) / 2)
        return float(value), np.array(gradient)


def fit(y: np.ndarray, x: np.ndarray, groups: list[np.ndarray]) -> Fit:
    """The mixed model of y [n] in [0, 1] on x [n, p] with a random intercept for each factor in `groups` (any labels, [n] each).

    `converged` is False where the likelihood has no maximum (all votes alike) or the search ended early; its numbers are then not to be used."""
    y, x = np.asarray(y, float), np.asarray(x, float)
    model = Laplace(y, x, [np.unique(g, return_inverse=True)[1] for g in groups])
    start = np.concatenate([clustered(y, x, groups[0]).coefficients, np.full(len(groups), 0.5)])

    def negative(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = model(parameters)
        return -value, -gradient

    found = optimize.minimize(negative, start, jac=True, method="BFGS", options={"gtol": 1e-5, "maxiter": 300})
    at = found.x
    gradient = negative(at)[1]
    hessian = np.array([(negative(at + STEP * e)[1] - negative(at - STEP * e)[1]) / (2 * STEP) for e in np.eye(len(at))])
    hessian = (hessian + hessian.T) / 2
    p = x.shape[1]
    proper = np.all(np.isfinite(hessian)) and np.linalg.eigvalsh(hessian)[0] > 1e-8
    covariance = np.linalg.inv(hessian)[:p, :p] if proper else np.full((p, p), np.nan)
    sds = np.empty(len(groups))
    sds[model.order] = np.abs(at[p:])
    alike = np.ptp(y) == 0 and y[0] in (0, 1)
    return Fit(at[:p], np.sqrt(np.diag(covariance)), covariance, sds, 2 * float(found.fun), len(y), bool(proper and np.abs(gradient).max() < 1e-2 and not alike))


def marginal(logit: float, sds: np.ndarray) -> float:
    """The share over all raters and questions of a model whose own logit is given: E[expit(logit + e)], e ~ N(0, sum sds^2), by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return float(weights @ special.expit(logit + np.sqrt(np.sum(np.square(sds))) * nodes) / weights.sum())


def spread(influence: np.ndarray, rater: np.ndarray, question: np.ndarray | None = None) -> tuple[float, float]:
    """(variance, degrees of freedom) of an estimate whose error is the sum of `influence` [n], one part a vote; rater and question: labels [n].

    Votes of one rater go together: each rater's sum is divided by 1 - (share of all votes), which is the delete-one-rater jackknife for a mean (and with
    equal raters the usual G / (G - 1)). Votes on one question go together too: both clusterings less the votes' own variance (Cameron, Gelbach and
    Miller 2011), and never below the raters' alone. Degrees of freedom: Kish's effective number of raters, n^2 / sum n_g^2, less 1; with equally
    active raters that is G - 1. With one rater the variance is NaN: it cannot be told."""
    codes = np.unique(rater, return_inverse=True)[1]
    sizes = np.bincount(codes)
    groups, n = len(sizes), len(influence)
    if groups < 2:
        return float("nan"), 1.0
    sums = np.bincount(codes, influence) / (1 - sizes / n)
    variance = (groups - 1) / groups * float(sums @ sums)
    if question is not None:
        each = np.bincount(np.unique(question, return_inverse=True)[1], influence)
        if len(each) > 1:
            both = variance + len(each) / (len(each) - 1) * float(each @ each) - n / (n - 1) * float(influence @ influence)
            variance = max(variance, both)
    return variance, max(1.0, n**2 / float(sizes @ sizes) - 1)


@dataclass(frozen=True)
class Clustered:
    coefficients: np.ndarray  # [p]
    influence: np.ndarray  # [n, p] what each vote adds to the error of each coefficient
    rater: np.ndarray
    question: np.ndarray | None

    def interval(self, contrast: np.ndarray) -> tuple[float, float, float]:
        """(value, low, high) of contrast' beta, 95 %, by Student's t; see `spread`."""
        variance, df = spread(self.influence @ contrast, self.rater, self.question)
        value, half = float(contrast @ self.coefficients), float(stats.t.ppf(0.975, df) * np.sqrt(variance))
        return value, value - half, value + half


def clustered(y: np.ndarray, x: np.ndarray, rater: np.ndarray, question: np.ndarray | None = None) -> Clustered:
    """Logistic regression of y [n] in [0, 1] on x [n, p] with a weak normal prior (PRIOR), so that there is one answer and it is finite, and
    sandwich errors that are clustered by rater and question (Liang and Zeger 1986)."""
    y, x = np.asarray(y, float), np.asarray(x, float)
    prior = np.eye(x.shape[1]) / PRIOR**2
    beta = np.zeros(x.shape[1])
    for _ in range(NEWTON):
        p = special.expit(x @ beta)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + prior
        step = np.linalg.solve(hessian, x.T @ (y - p) - prior @ beta)
        beta = beta + step / max(1.0, float(np.abs(step).max()))  # at most 1 at a time: from afar, a whole step can overshoot
        if np.abs(step).max() < 1e-10:
            break
    return Clustered(beta, (x * (y - special.expit(x @ beta))[:, None]) @ np.linalg.inv(hessian), rater, question)
