"""Whether answers stand on the rows of their prompts: told from the words they share, with no model. Used by `datagen.audit`.

An answer repeats words of its prompt, and more of them than of a prompt drawn from the same file. `fit` is the probability that an answer is
closer to its own prompt than to a random other one (the area under the ROC curve; 0.5 is chance). Only a column that is shown to be at chance,
and that could have been above it, is called misaligned; then shifts, permutations and other files are looked for as the cause.
"""

import itertools
import math
import re
from array import array
from collections import defaultdict

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from datagen.balance import UNSPACED
from eval.surface import plain, wilson

SEED = 1
FEW = 30  # rows below which nothing is said
CLIP = 4000  # characters of a text that are compared with others; bounds memory at 60,000 rows to a few GB
LARGE = 5000  # rows above which costly steps use a sample
CELLS = 20_000_000  # similarities held at a time
SIDES = ("chosen", "rejected")
BINS = np.linspace(0, 1, 9)  # of ranks
EDGES = np.array([0.0007, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5])  # of places among all prompts
RUN = re.compile(f"[{UNSPACED}]+")  # of a script without spaces
WORD = re.compile(rf"(?:[^\W_{UNSPACED}]|[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0900-\u0963\u0966-\u0dff])+")  # vowel signs belong to words


def tokens(text: str) -> set[str]:
    """The words of a text in lower case; for scripts without spaces, pairs of neighbouring characters."""
    text = plain(text[:CLIP]).lower()
    if text.isascii():
        return set(re.findall(r"[^\W_]+", text))
    return set(WORD.findall(text)) | {run[i : i + 2] for run in RUN.findall(text) for i in range(max(1, len(run) - 1))}


def matrices(columns: list[list[str]]) -> tuple[list[sparse.csr_matrix], np.ndarray, list[sparse.csr_matrix]]:
    """(words, content, stems) of columns of n texts each.

    words: per column n x V, 1 where the text has the word. content: V booleans, words of four letters or more that are no English function
    words (every pair of characters, in scripts without spaces). stems: per column n x S, rows of unit length: words cut to five characters
    (a stemmer for all alphabets), weighted by log(texts / texts that have it); function words and single letters left out.
    """
    vocabulary: dict[str, int] = {}
    raw = []
    for texts in columns:
        ids, ends = array("i"), array("q", [0])
        for text in texts:
            ids.extend(vocabulary.setdefault(w, len(vocabulary)) for w in sorted(tokens(text)))
            ends.append(len(ids))
        raw.append((np.frombuffer(ids, dtype=np.int32) if ids else np.zeros(0, np.int32), np.frombuffer(ends, dtype=np.int64)))
    names = list(vocabulary)
    words = [sparse.csr_matrix((np.ones(len(ids), np.float32), ids, ends), shape=(len(ends) - 1, len(names))) for ids, ends in raw]
    unspaced = np.array([not w.isascii() and bool(RUN.match(w)) for w in names], dtype=bool)
    content = np.array([len(w) > 3 and w not in ENGLISH_STOP_WORDS and not w.isdigit() for w in names], dtype=bool) | unspaced
    telling = np.array([w not in ENGLISH_STOP_WORDS and (len(w) > 1 or w.isdigit()) for w in names], dtype=bool) | unspaced
    stem_of = defaultdict(lambda: len(stem_of))
    rows, cols = np.flatnonzero(telling), [stem_of[names[i][:5]] for i in np.flatnonzero(telling)]
    merge = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, cols)), shape=(len(names), max(1, len(stem_of))))
    stems = [matrix @ merge for matrix in words]
    for matrix in stems:
        matrix.data[:] = 1
    weight = np.log(sum(m.shape[0] for m in stems) / np.maximum(1, sum(np.asarray(m.sum(axis=0)).ravel() for m in stems)))
    for i, matrix in enumerate(stems):
        weighted = (matrix @ sparse.diags(weight.astype(np.float32))).tocsr()
        weighted.eliminate_zeros()
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        stems[i] = (sparse.diags((1 / np.maximum(norms, 1e-9)).astype(np.float32)) @ weighted).tocsr()
    return words, content, stems


def dots(a: sparse.csr_matrix, b: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(a.multiply(b).sum(axis=1)).ravel()


def mean_interval(values: np.ndarray) -> dict:
    """{value, low, high, n} of a mean; None where there are too few values."""
    n = len(values)
    half = 1.96 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    mean = float(np.mean(values)) if n else None
    return {"value": mean, "low": None if half is None else mean - half, "high": None if half is None else mean + half, "n": n}


def share(successes: float, n: int) -> dict:
    """{value, low, high, n} of a share of n."""
    low, high = wilson(successes, n) if n else (None, None)
    return {"value": successes / n if n else None, "low": low, "high": high, "n": n}


def above_chance(fit: dict) -> bool:
    """Whether a mean rank is clear of 0.5, by three standard errors."""
    return fit["n"] >= FEW and fit["value"] - 0.5 > 3 * (fit["high"] - fit["low"]) / 3.92


class Fit:
    """How well each row of A (answers) fits its own row of B (prompts, or the other answers), against other rows of B.

    own: similarity to the own row. rank: share of the compared other rows that fit less well, ties by half; nan where there is nothing
    to compare. Rows whose prompts are near-duplicates are never compared. by_chance: the same ranks for one random other row.
    """

    def __init__(self, a: sparse.csr_matrix, b: sparse.csr_matrix, groups: np.ndarray, shuffles: list[np.ndarray]):
        self.a, self.b = a, b
        self.own = dots(a, b)
        self.others = np.stack([np.where(groups == groups[p], np.nan, dots(a, b[p])) for p in shuffles], axis=1).astype(np.float32)
        empty = (a.getnnz(axis=1) == 0) | (b.getnnz(axis=1) == 0)
        self.others[empty] = np.nan
        self.rank = self.ranks(self.own)
        self.by_chance = self.ranks(self.others[:, 0], self.others[:, 1:])

    def ranks(self, similarity: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
        others = self.others if others is None else others
        s = similarity[:, None].astype(np.float32)
        known = (~np.isnan(others)).sum(axis=1)
        with np.errstate(invalid="ignore"):
            below = (others < s).sum(axis=1) + (others == s).sum(axis=1) / 2
            return np.where((known > 0) & ~np.isnan(similarity), below / np.maximum(known, 1), np.nan)

    def shifted(self, k: int, rows: np.ndarray) -> np.ndarray:
        """Similarity of the answers on `rows` to the prompts k rows above; nan beyond the ends."""
        ok = (rows - k >= 0) & (rows - k < self.b.shape[0])
        result = np.full(len(rows), np.nan)
        result[ok] = dots(self.a[rows[ok]], self.b[rows[ok] - k])
        return result

    def mean(self, rows=slice(None)) -> dict:
        values = self.rank[rows]
        return mean_interval(values[~np.isnan(values)])


def candidate_shifts(fit: Fit) -> list[int]:
    """Shifts at which some window of rows that is at chance with its own prompts fits clearly better than some rows further on.

    A window's answers are compared with all prompts at once, and the similarities summed along diagonals. A true shift is a sharp
    peak; files sorted by subject or language give broad ones, so the peak must stand out from the shifts 8 to 40 rows away.
    """
    n, found = len(fit.rank), {}
    usable = np.flatnonzero(~np.isnan(fit.rank))
    for width, most in ((48, 60), (384, 12), (3072, 1)):
        windows = [usable[i : i + width] for i in range(0, len(usable), width)]
        windows = [w for w in windows if len(w) >= FEW and fit.rank[w].mean() - 0.5 < 3 * fit.rank[w].std() / math.sqrt(len(w)) + 1e-9]
        for w in np.unique(np.linspace(0, len(windows) - 1, min(most, len(windows))).astype(int)):
            total = np.zeros(2 * n)
            for part in np.array_split(windows[w], len(windows[w]) * n // CELLS + 1):
                for row, values in zip(part, (fit.a[part] @ fit.b.T).toarray(), strict=True):
                    total[row + 1 : row + 1 + n] += values[::-1]  # index n + answer - prompt
            for k in (int(i) - n for i in np.argsort(-total, kind="stable")[:3] if i != n):
                beside = np.stack([fit.shifted(k + d, windows[w]) for d in (-40, -29, -19, -12, -8, 8, 12, 19, 29, 40)])
                known = (~np.isnan(beside)).sum(axis=0)
                gain = fit.shifted(k, windows[w]) - np.nansum(beside, axis=0) / np.maximum(known, 1)
                gain = gain[~np.isnan(gain) & (known > 0)]
                if len(gain) >= 20 and gain.mean() > 6 * gain.std() / math.sqrt(len(gain)):
                    found[k] = max(found.get(k, 0.0), gain.mean() * math.sqrt(len(gain)) / (gain.std() + 1e-9))
    return sorted(found, key=lambda k: (-found[k], k))[:12]


def segments(fit: Fit) -> list[tuple[int, int, int | None]]:
    """The file cut into (first row, last row + 1, shift) where the answers fit the prompts `shift` rows above, 0 for their own, None for neither.

    The likeliest path (Viterbi) through the ranks of all rows at all candidate shifts: a rank's likelihood ratio is its frequency in rows that
    match over its frequency among random pairs, both in eighths; each change of state costs 3 + log n nats (a description length).
    """
    n, rows = len(fit.rank), np.arange(len(fit.rank))
    ranks = {0: fit.rank} | {k: fit.ranks(fit.shifted(k, rows)) for k in candidate_shifts(fit)}
    states, cost = [None, *ranks], 3 + math.log(n)

    def frequency(values: np.ndarray) -> np.ndarray:
        counts = np.histogram(values[~np.isnan(values)], BINS)[0] + 1.0
        return counts / counts.sum()

    matching, path = max(ranks.values(), key=lambda r: np.nan_to_num(np.nanmean(r))), np.zeros(n, int)
    for _ in range(4):
        ratio = np.append(np.log(frequency(matching) / frequency(fit.by_chance)), 0.0)  # the last for rows without a rank
        score = np.stack([np.zeros(n)] + [ratio[np.where(np.isnan(r), 8, np.clip(np.nan_to_num(r) * 8, 0, 7)).astype(int)] for r in ranks.values()], axis=1)
        best, back = score[0] - cost * (np.array(states) != 0), np.zeros((n, len(states)), int)
        for i in range(1, n):
            stay, leave = best, best.max() - cost
            back[i] = np.where(stay >= leave, np.arange(len(states)), best.argmax())
            best = np.maximum(stay, leave) + score[i]
        path[-1] = best.argmax()
        for i in range(n - 1, 0, -1):
            path[i - 1] = back[i, path[i]]
        if not path.any():
            break
        matching = np.concatenate([r[path == s + 1] for s, r in enumerate(ranks.values())])
    cuts = [0, *(np.flatnonzero(np.diff(path)) + 1), n]
    return [(int(a), int(b), states[path[a]]) for a, b in itertools.pairwise(cuts)]


def own_place(fit: Fit, rows: np.ndarray, without_own: bool) -> tuple[int, int]:
    """(answers of `rows` that have a clear place in the file, answers looked at): answer and prompt are each other's best match, and the
    second best is at least 0.1 behind on either side. With `without_own`, as if no answer's own prompt were in the file."""
    rows = rows if len(rows) <= LARGE else np.sort(np.random.default_rng(SEED).permutation(rows)[:LARGE])
    n = fit.b.shape[0]
    top, first = np.zeros((len(rows), 2)), np.zeros(len(rows), int)
    column, holder = np.zeros((2, n)), np.zeros(n, int)
    for start in range(0, len(rows), step := CELLS // n + 1):
        part = rows[start : start + step]
        similarity = (fit.a[part] @ fit.b.T).toarray()
        if without_own:
            similarity[np.arange(len(part)), part] = 0
        first[start : start + step] = similarity.argmax(axis=1)
        top[start : start + step] = np.sort(np.partition(similarity, -2, axis=1)[:, -2:], axis=1)[:, ::-1]
        both = np.concatenate([column, similarity])
        holder = np.where(similarity.max(axis=0) > column[0], similarity.argmax(axis=0) + start, holder)
        column = np.sort(np.partition(both, -2, axis=0)[-2:], axis=0)[::-1]
    margin = np.minimum(top[:, 0] - top[:, 1], (column[0] - column[1])[first])
    return int(np.sum((margin >= 0.1) & (holder[first] == np.arange(len(rows))))), len(rows)


def closer(fit: Fit, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Class (0 best to 9) of the place that each of `columns` (rows x m) takes among all prompts, ordered by fit to the answer of its row."""
    n, result = fit.b.shape[0], np.zeros(columns.shape, int)
    for start in range(0, len(rows), step := CELLS // n + 1):
        similarity = (fit.a[rows[start : start + step]] @ fit.b.T).toarray()
        for r, values in enumerate(similarity, start):
            ordered, mine = np.sort(values), values[columns[r]]
            below, upto = np.searchsorted(ordered, mine, "left"), np.searchsorted(ordered, mine, "right")
            result[r] = np.digitize((n - upto + (upto - below - 1) / 2) / n, EDGES)
    return result


def misplaced(fits: list[Fit], good: np.ndarray, texts: list[str], groups: np.ndarray) -> list[dict]:
    """Single answers on wrong rows of a sound column: {row, fits (the row whose prompt it fits), odds (natural log)}, positions from 0.

    Bayes: the class of a place (`closer`) is so much likelier for true pairs than for random ones, by this column's own sound rows and,
    where the other column is sound too, by its answers. Rows i and j are compared when both fit badly where they stand. Prior odds: one row
    in 1,100 misplaced (e^-7), any of n places. Named from odds of 150 to 1 (e^5) on, for i -> j alone or for an exchange of both. A verbatim
    copy of one other answer that fits there, and not here, is named too.
    """
    n, rng, prior = len(groups), np.random.default_rng(SEED), 7.0
    sample = np.sort(rng.permutation(good)[:800])
    tables = []
    for fit in fits:
        same = np.bincount(closer(fit, sample, sample[:, None]).ravel(), minlength=10) + 0.5
        other = np.bincount(closer(fit, sample, rng.integers(0, n, (len(sample), 60))).ravel(), minlength=10) + 0.5
        tables.append(np.log(same / same.sum() / (other / other.sum())))

    def evidence(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return sum(table[closer(fit, rows, columns)] for fit, table in zip(fits, tables, strict=True))

    poor = good[fits[0].rank[good] <= 0.75]
    poor = np.sort(poor[np.argsort(fits[0].rank[poor], kind="stable")[:1500]])
    if not len(poor):
        return []
    own = evidence(poor, poor[:, None])[:, 0]
    poor, own = poor[own < 0], own[own < 0]
    found = {}
    if len(poor) > 1:
        moved = evidence(poor, np.tile(poor, (len(poor), 1)))
        cost = -own[:, None] - own[None] - math.log(n)
        odds = np.maximum(moved + cost - prior, moved + moved.T + cost - 1.5 * prior)
        odds[groups[poor][:, None] == groups[poor][None]] = -np.inf
        found = {int(poor[i]): {"row": int(poor[i]), "fits": int(poor[odds[i].argmax()]), "odds": float(odds[i].max())} for i in np.flatnonzero(odds.max(axis=1) > 5)}
    copies = defaultdict(list)
    for i, text in enumerate(texts):
        copies[" ".join(text.split())].append(i)
    for i, here in zip(poor, own, strict=True):
        twin = [j for j in copies[" ".join(texts[i].split())] if groups[j] != groups[i]]
        if len(twin) == 1 and here < -2 and (there := evidence(np.array(twin), np.array([twin]))[0, 0]) > 2:
            found[int(i)] = {"row": int(i), "fits": twin[0], "odds": float(there - here)}
    return [found[i] for i in sorted(found)]


def standing(fit: Fit, between: Fit, rows: np.ndarray, other_sound: bool, specific: np.ndarray, overlap: float) -> str:
    """ "sound", "at chance", or why it cannot be told for the answers on `rows`.

    To be called at chance, a column must be shown to be there (interval below 0.6), and must have had the means to be above: words that could tie
    an answer to a prompt (`specific`) in at least 40 % of rows; and unless the other column is sound, which shows that such words do tie, words in
    common with random prompts (`overlap`) in at least 3 %.
    Where the other column is sound, the two must be at chance with each other, too: paraphrase shares words with the other answer.
    """
    own = fit.mean(rows)
    if own["n"] < FEW:
        return f"too few rows to say ({own['n']} with words to compare; {FEW} are needed)"
    if above_chance(own):
        return "sound"
    if own["high"] >= 0.6:
        return f"too few rows to say (the interval of the fit reaches to {own['high']:.2f})"
    if own["high"] < 0.45:
        return "cannot tell: answers share fewer words with their own prompts than with others, as translations do"
    if overlap < 0.03 and not other_sound:
        return "cannot tell: the answers have hardly a word in common with any prompt"
    if specific[rows].mean() < 0.4:
        return "cannot tell: most answers have no words that tie them to any prompt (boilerplate, labels)"
    if other_sound and above_chance(between.mean(rows)):
        return "cannot tell: the answers share no words with their prompts, but they do with the other answers on their rows"
    return "at chance"


def belonging(fit: Fit, rows: np.ndarray, reference: Fit | None) -> tuple[str, dict]:
    """Where answers at chance belong: in words, and the counts behind it. The reference is the other column, where that is sound: how many of its
    answers have a clear place in the file with their own prompts there, and how many with those taken away. Told from odds of 20 to 1 on."""
    clear, n = own_place(fit, rows, False)
    counts, odds = {"clear places": share(clear, n)}, 3.1 if wilson(clear, n)[0] > 0.15 else 0.0
    if reference is not None:
        there, without = own_place(reference, rows, False)[0], own_place(reference, rows, True)[0]
        counts |= {"clear places in the other column": share(there, n), "the same with its own prompts taken away": share(without, n)}
        p, q = (there + 0.5) / (n + 1), (without + 0.5) / (n + 1)
        odds = clear * math.log(p / q) + (n - clear) * math.log((1 - p) / (1 - q)) if p > q else 0.0
    if odds > 3:
        return "permuted within the file (the prompts that fit them best stand elsewhere in it, at no constant shift)", counts
    elsewhere = odds < -3 and wilson(clear, n)[0] <= wilson(without, n)[1]
    return ("they belong to prompts that are not in this file" if elsewhere else "where they belong cannot be told"), counts


def place(start: int, end: int, numbers: list[int]) -> str:
    n, first, last = len(numbers), numbers[start], numbers[end - 1]
    if end - start >= 0.97 * n:
        return ""
    return f" from row {first} on" if end == n else f" up to row {last}" if start == 0 else f" on rows {first} to {last}"


def tying(answers: sparse.csr_matrix, prompts: sparse.csr_matrix, other: sparse.csr_matrix | None) -> np.ndarray:
    """Which answers have a word that could tie them to one prompt rather than another. Where the other column is sound: a word of at most a tenth
    of the answers that the other answer shares with its own prompt at least five times as often as chance. Else: one that prompts have,
    and at most a twentieth of the answers."""
    n, (asked, here) = answers.shape[0], (np.asarray(m.sum(axis=0)).ravel() for m in (prompts, answers))
    if other is None:
        ties = (asked > 0) & (here <= max(2, n / 20))
    else:
        both, there = (np.asarray(m.sum(axis=0)).ravel() for m in (prompts.multiply(other), other))
        ties = (both > 0) & (both * n >= 5 * asked * there) & (here <= max(2, n / 10))
    return answers[:, ties].getnnz(axis=1) > 0


def shuffled_share(a: sparse.csr_matrix, b: sparse.csr_matrix, usable: np.ndarray, groups: np.ndarray, shuffles: list[np.ndarray]) -> dict:
    """Share of rows with nothing in common when every answer gets a random other prompt: mean and central 95 % of the shuffles."""
    drawn = []
    for p in shuffles:
        ok = usable & usable[p] & (groups != groups[p])
        if ok.any():
            drawn.append(float(np.mean(dots(a[ok], b[p[ok]]) == 0)))
    low, high = map(float, np.percentile(drawn, [2.5, 97.5])) if drawn else (None, None)
    return {"value": float(np.mean(drawn)) if drawn else None, "low": low, "high": high, "n": int(usable.sum())}


def answering(prompts: list[str], chosen: list[str], rejected: list[str], numbers: list[int]) -> tuple[dict, list[sparse.csr_matrix], list[int]]:
    """(findings, `words` of `matrices`, group of equal prompts of each row). Per side: fit, share without a common word against shuffled pairs,
    verdict (sound, misaligned, or why it cannot be told), the parts of the file where the column stands wrong, single misplaced rows."""
    n, known = len(numbers), {}
    groups = np.array([known.setdefault(" ".join(p.lower().split()), len(known)) for p in prompts])
    words, content, stems = matrices([prompts, chosen, rejected])
    rng, rows = np.random.default_rng(SEED), np.arange(n)
    shuffles = [rng.permutation(n) for _ in range(64 if n <= LARGE else 16)]
    fits = {side: Fit(stems[i], stems[0], groups, shuffles) for i, side in enumerate(SIDES, 1)}
    between = {"chosen": Fit(stems[1], stems[2], groups, shuffles), "rejected": Fit(stems[2], stems[1], groups, shuffles)}
    sound = {side: above_chance(m := fits[side].mean()) and m["value"] > 0.6 for side in SIDES}
    asked = words[0][:, content]
    result = {"distinct prompts": len(known), "between": between["chosen"].mean()}
    for i, (side, texts, other) in enumerate(zip(SIDES, (chosen, rejected), SIDES[::-1], strict=True), 1):
        fit, mine = fits[side], words[i][:, content]
        usable = (mine.getnnz(axis=1) > 0) & (asked.getnnz(axis=1) > 0)
        nothing = usable & (dots(mine, asked) == 0)
        shuffled = shuffled_share(mine, asked, usable, groups, shuffles)
        specific = tying(mine, asked, words[3 - i][:, content] if sound[other] else None) & (len({" ".join(t.split()) for t in texts}) >= n / 4)
        context = (fit, between[side]), (sound[other], specific, 1 - (shuffled["value"] or 0))
        whole, parts, bad = standing(*context[0], rows, *context[1]), [], np.zeros(n, bool)
        for start, end, k in segments(fit) if fit.mean()["n"] >= FEW else []:
            part = rows[start:end]
            verdict = standing(*context[0], part, *context[1])
            if k and verdict != "sound":
                at, there = min(n - 1, max(start, k)), fit.ranks(fit.shifted(k, rows))[part]
                what = f"shifted by {k:+d}{place(start, end, numbers)} (the answer on row {numbers[at]} belongs to the prompt on row {numbers[at - k]})"
                found = {"what": what, "shift": k, "fit there": mean_interval(there[~np.isnan(there)]), "counts": {}}
            elif verdict == "at chance":
                what, counts = belonging(fit, part, fits[other] if sound[other] else None)
                found = {"what": what + place(start, end, numbers), "shift": None, "counts": counts}
            else:
                continue
            parts.append(found | {"rows": [numbers[start], numbers[end - 1]], "fit": fit.mean(part)})
            bad[start:end] = True
        good = np.flatnonzero(~bad & ~np.isnan(fit.rank))
        evidence = [fit, between[side]] if sound[other] and above_chance(between[side].mean()) else [fit]
        single = misplaced(evidence, good, texts, groups) if sound[side] and len(good) >= 2 * FEW else []
        result[side] = {
            "fit": fit.mean(),
            "nothing in common": share(int(nothing.sum()), int(usable.sum())),
            "if shuffled": shuffled,
            "verdict": "misaligned" if parts else whole,
            "parts": parts,
            "rows": [numbers[r] for r in np.flatnonzero(nothing & (bad if parts else True))],
            "misplaced": [m | {"row": numbers[m["row"]], "fits": numbers[m["fits"]]} for m in single],
            "along": [fit.mean(part) | {"from": int(part[0]) + 1, "to": int(part[-1]) + 1} for part in np.array_split(rows, max(1, min(24, n // 40)))],
        }
    return result, words, groups.tolist()
