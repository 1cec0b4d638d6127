"""Logistic regression for votes: a mixed model with crossed random intercepts, and a plain one whose errors are clustered by rater; both for two sides, and
for points of a scale.

    from eval.glmm import Cumulative, clustered, fit
    fit(y, x, [rater, question])                       # logit P(y) = x beta + u[rater] + v[question],  u ~ N(0, s1^2), v ~ N(0, s2^2)
    fit(Cumulative(points), x, [rater, question])      # logit P(points > k) = x beta + u + v - c_k,  with cuts c that mirror each other

The mixed model is fitted by the Laplace approximation (Tierney and Kadane 1986; Breslow and Clayton 1993), as glmmTMB and lme4 fit it by default. With
spherical effects b, Z' S for the random design times its standard deviations, and H = I + S Z W Z' S at the mode of b,

    log L(beta, s) = sum_i log p(y_i | eta_i) - b'b / 2 - log det(H) / 2.

H is never formed: the block of the factor with most levels is diagonal, because a vote has one level of it, and is eliminated by its Schur complement;
what is factored has the size of the other factors only. The gradient is exact, also for what the mode does when beta or s change.

The two estimate different things. The mixed model's coefficients are those of one rater on one question (conditional); the plain model's are those of
all votes taken together (marginal), which lie nearer to 0 by about sqrt(1 + 0.346 (s1^2 + s2^2)) (Zeger, Liang and Albert 1988). `marginal` leads from one to the
other. A tie is y = 1/2, for which log p = (log p(0) + log p(1)) / 2. The item variance of data with about one vote an item cannot be told, and
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


# ---------------------------------------------------------------- what a vote says, given eta


@dataclass(frozen=True)
class Slopes:
    """Derivatives of log p(vote | eta, cuts), [n] each; by cut: [cuts, n]."""

    first: np.ndarray  # by eta
    weight: np.ndarray  # minus the second, by eta; never negative
    turn: np.ndarray  # of the weight, by eta
    by_cut: np.ndarray
    first_by_cut: np.ndarray
    weight_by_cut: np.ndarray


class Binary:
    """y [n] in [0, 1], logit P(y = 1) = eta; no cuts."""

    cuts = 0

    def __init__(self, y: np.ndarray):
        self.y = np.asarray(y, float)
        self.n, self.alike = len(self.y), np.ptp(self.y) == 0 and self.y[0] in (0, 1)
        self.none = np.zeros((0, self.n))

    def value(self, eta: np.ndarray, cuts: np.ndarray) -> float:
        return float(self.y @ eta - np.logaddexp(0, eta).sum())

    def slopes(self, eta: np.ndarray, cuts: np.ndarray) -> Slopes:
        p = special.expit(eta)
        w = p * (1 - p)
        return Slopes(self.y - p, w, w * (1 - 2 * p), self.none, self.none, self.none)


class Cumulative:
    """Points [n] of a scale whose two halves mirror each other, such as -2, -1, 0, 1, 2 or -2, -1, 1, 2: logit P(points > k) = eta - c_k (McCullagh 1980).

    Which answer stands left is by lot, so swapping the two has to turn every probability round: the cuts are symmetric about 0, and at eta = 0 neither answer is
    preferred (Agresti 1992, for paired comparisons). Parameters `cuts`: logs of the gaps between one cut and the next, outwards from 0. Levels that nobody used
    are left out. With u and v the cuts above and below a vote's level, less eta, and F the logistic function,
        log p = log F(u) + log F(-v) + log(1 - exp(v - u)),
    in which the last term does not depend on eta: log p is concave in eta."""

    def __init__(self, points: np.ndarray):
        points = np.asarray(points)
        sizes = np.unique(np.abs(points))
        half, self.n, self.alike = int((sizes > 0).sum()), len(points), np.ptp(points) == 0
        if not half:
            raise ValueError("no vote is for either side, so there is nothing to fit")
        ties = len(sizes) > half
        self.cuts = half - (not ties)
        levels = np.concatenate([-sizes[::-1], sizes[ties:]])
        self.level = np.searchsorted(levels, points)
        # Each cut as a sum of gaps: rows are the cuts from lowest to highest, columns the gaps.
        upper = np.tri(self.cuts)
        self.gaps = np.vstack([-upper[::-1], *([] if ties else [np.zeros((1, self.cuts))]), upper])

    def bounds(self, cuts: np.ndarray) -> np.ndarray:
        """[levels + 1] cuts from lowest to highest, between minus and plus infinity."""
        return np.concatenate([[-np.inf], self.gaps @ np.exp(cuts), [np.inf]])

    def value(self, eta: np.ndarray, cuts: np.ndarray) -> float:
        bounds = self.bounds(cuts)
        inner = np.log(-np.expm1(-np.diff(bounds)))
        return float((special.log_expit(bounds[self.level + 1] - eta) + special.log_expit(eta - bounds[self.level]) + inner[self.level]).sum())

    def slopes(self, eta: np.ndarray, cuts: np.ndarray) -> Slopes:
        bounds, sizes = self.bounds(cuts), np.exp(cuts)
        a, b = special.expit(bounds[self.level + 1] - eta), special.expit(bounds[self.level] - eta)
        va, vb = a * (1 - a), b * (1 - b)
        between = (np.exp(-np.diff(bounds)) / -np.expm1(-np.diff(bounds)))[self.level]  # 1 / (e^gap - 1)
        moves = np.vstack([np.zeros((1, self.cuts)), self.gaps * sizes, np.zeros((1, self.cuts))]).T  # of each bound with each parameter
        up, low = moves[:, self.level + 1], moves[:, self.level]
        return Slopes(
            a + b - 1,
            va + vb,
            -(va * (1 - 2 * a) + vb * (1 - 2 * b)),
            up * (1 - a + between) - low * (b + between),
            up * va + low * vb,
            up * (va * (1 - 2 * a)) + low * (vb * (1 - 2 * b)),
        )


# ---------------------------------------------------------------- the mixed model


class Laplace:
    """log L and its gradient at any (beta, s, cuts) for votes, x [n, p] and groups, a list of integer codes [n] from 0, one list a factor."""

    def __init__(self, votes: "np.ndarray | Binary | Cumulative", x: np.ndarray, groups: list[np.ndarray]):
        self.votes = votes if isinstance(votes, Binary | Cumulative) else Binary(votes)
        if not groups or any(len(g) != self.votes.n for g in groups) or len(x) != self.votes.n:
            raise ValueError("votes, x and every factor need one value a vote, and there has to be a factor")
        self.x, self.p, self.factors = np.asarray(x, float), x.shape[1], len(groups)
        sizes = [int(np.max(g)) + 1 for g in groups]
        self.order = sorted(range(len(groups)), key=lambda k: -sizes[k])  # the largest first: it is the one eliminated
        self.big, self.nbig = np.asarray(groups[self.order[0]]), sizes[self.order[0]]
        offsets = np.concatenate([[0], np.cumsum([sizes[k] for k in self.order[1:]])]).astype(int)
        self.rest, self.nrest = [np.asarray(groups[k]) + offset for k, offset in zip(self.order[1:], offsets, strict=False)], int(offsets[-1])
        self.b = (np.zeros(self.nbig), np.zeros(self.nrest))  # where the last mode was: a warm start

    def effects(self, s: np.ndarray, b: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """[n] S Z b"""
        return s[0] * b[0][self.big] + sum((sk * b[1][g] for sk, g in zip(s[1:], self.rest, strict=True)), np.zeros(self.votes.n))

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

    def mode(self, fixed: np.ndarray, s: np.ndarray, cuts: np.ndarray) -> tuple[tuple, np.ndarray]:
        """(b, eta) where the joint density of y and b is highest, by Newton's method with halved steps."""

        def height(b: tuple) -> tuple[float, np.ndarray]:
            eta = fixed + self.effects(s, b)
            return float(self.votes.value(eta, cuts) - (b[0] @ b[0] + b[1] @ b[1]) / 2), eta

        b = self.b
        now, eta = height(b)
        for _ in range(NEWTON):
            slopes = self.votes.slopes(eta, cuts)
            g = self.gather(s, slopes.first)
            g = (g[0] - b[0], g[1] - b[1])
            if max(np.abs(part).max(initial=0) for part in g) < 1e-10:
                break
            step, size = self.solve(self.blocks(s, slopes.weight), g), 1.0
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
        """(log L, its gradient) at parameters [p + factors + cuts]: beta, the standard deviations, largest factor first, the cuts. s and -s are the same model."""
        beta, s, cuts = np.split(parameters, [self.p, self.p + self.factors])
        b, eta = self.mode(self.x @ beta, s, cuts)
        slopes = self.votes.slopes(eta, cuts)
        w, residual = slopes.weight, slopes.first
        blocks = self.blocks(s, w)
        diagonal, cross, schur = blocks
        value = self.votes.value(eta, cuts) - (b[0] @ b[0] + b[1] @ b[1]) / 2 - (np.log(diagonal).sum() + np.linalg.slogdet(schur)[1]) / 2

        # The entries of H^-1 that votes touch: reach[k] is, for each vote, the row of its level of factor k in H^-1 S Z'.
        inner = np.linalg.inv(schur)
        scaled = cross / diagonal[:, None]
        corner = scaled @ inner
        own = 1 / diagonal + (corner * scaled).sum(1)
        reach = [s[0] * own[self.big] - sum((sk * corner[self.big, g] for sk, g in zip(s[1:], self.rest, strict=True)), np.zeros(len(w)))]
        for g in self.rest:
            reach.append(-s[0] * corner[self.big, g] + sum(sl * inner[g, h] for sl, h in zip(s[1:], self.rest, strict=True)))
        leverage = sum(sk * r for sk, r in zip(s, reach, strict=True))
        slope = slopes.turn * leverage  # d log det(H) / d eta

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
        for own, pull, weight in zip(slopes.by_cut, slopes.first_by_cut, slopes.weight_by_cut, strict=True):
            moved = through_mode(np.zeros(self.votes.n), self.gather(s, pull))
            gradient.append(own.sum() - leverage @ weight / 2 - slope @ moved / 2)
        return float(value), np.array(gradient)


def fit(y: "np.ndarray | Binary | Cumulative", x: np.ndarray, groups: list[np.ndarray]) -> Fit:
    """The mixed model of y (in [0, 1], [n], or Cumulative) on x [n, p] with a random intercept for each factor in `groups` (any labels, [n] each).

    `converged` is False where the likelihood has no maximum (all votes alike) or the search ended early; its numbers are then not to be used."""
    x = np.asarray(x, float)
    model = Laplace(y, x, [np.unique(g, return_inverse=True)[1] for g in groups])
    beta, cuts = np.split(clustered(model.votes, x, groups[0]).coefficients, [x.shape[1]])
    start = np.concatenate([beta, np.full(len(groups), 0.5), cuts])

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
    sds[model.order] = np.abs(at[p : p + len(groups)])
    converged = bool(proper and np.abs(gradient).max() < 1e-2 and not model.votes.alike)
    return Fit(at[:p], np.sqrt(np.diag(covariance)), covariance, sds, 2 * float(found.fun), model.votes.n, converged)


def marginal(logit: float, sds: np.ndarray) -> float:
    """The share over all raters and questions of a model whose own logit is given: E[expit(logit + e)], e ~ N(0, sum sds^2), by Gauss-Hermite."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    return float(weights @ special.expit(logit + np.sqrt(np.sum(np.square(sds))) * nodes) / weights.sum())


# ---------------------------------------------------------------- the plain model, with clustered errors


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
    coefficients: np.ndarray  # [p + cuts]
    influence: np.ndarray  # [n, p + cuts] what each vote adds to the error of each coefficient
    rater: np.ndarray
    question: np.ndarray | None

    def interval(self, contrast: np.ndarray) -> tuple[float, float, float]:
        """(value, low, high) of contrast' beta, 95 %, by Student's t; see `spread`."""
        variance, df = spread(self.influence @ contrast, self.rater, self.question)
        value, half = float(contrast @ self.coefficients), float(stats.t.ppf(0.975, df) * np.sqrt(variance))
        return value, value - half, value + half


def clustered(y: "np.ndarray | Binary | Cumulative", x: np.ndarray, rater: np.ndarray, question: np.ndarray | None = None) -> Clustered:
    """Logistic regression of y (in [0, 1], [n], or Cumulative) on x [n, p] with a weak normal prior (PRIOR), so that there is one answer and it is finite,
    and sandwich errors that are clustered by rater and question (Liang and Zeger 1986).

    What it estimates is the regression over all raters and questions, each as often as it voted (see the module's docstring): not one rater's effect."""
    if isinstance(y, Cumulative):
        return clustered_points(y, np.asarray(x, float), rater, question)
    y, x = y.y if isinstance(y, Binary) else np.asarray(y, float), np.asarray(x, float)
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


def clustered_points(votes: Cumulative, x: np.ndarray, rater: np.ndarray, question: np.ndarray | None) -> Clustered:
    """As `clustered`, for points. The prior is on the cuts' parameters too."""
    p = x.shape[1]

    def scores(at: np.ndarray) -> np.ndarray:
        """[n, p + cuts] of log p, the prior not counted."""
        slopes = votes.slopes(x @ at[:p], at[p:])
        return np.column_stack([x * slopes.first[:, None], slopes.by_cut.T])

    def negative(at: np.ndarray) -> tuple[float, np.ndarray]:
        return at @ at / PRIOR**2 / 2 - votes.value(x @ at[:p], at[p:]), at / PRIOR**2 - scores(at).sum(0)

    at = optimize.minimize(negative, np.zeros(p + votes.cuts), jac=True, method="BFGS", options={"gtol": 1e-7, "maxiter": 500}).x
    hessian = np.array([(negative(at + STEP * e)[1] - negative(at - STEP * e)[1]) / (2 * STEP) for e in np.eye(len(at))])
    return Clustered(at, scores(at) @ np.linalg.inv((hessian + hessian.T) / 2), rater, question)
