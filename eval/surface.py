"""What can be counted in an answer without a judge: interpretable surface measures, each with its interval.

    python -m eval.surface out/tiny/answers.jsonl        # the table of base against tuned

These measures describe style. They do not say which answer is better, and a model can be trained to please them.
The rule `friendlier` was fixed before any model was trained with this repository, and is not fitted to data.
"""

import argparse
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.emojis import blank, found
from datagen.files import UserError, entry, read_jsonl

RESAMPLES, SEED = 10_000, 1

AI = re.compile(
    r"\b(as an? (\w+ )?(ai|assistant|language model|artificial intelligence|digital (assistant|entity))\b"
    r"|(large )?language model|artificial intelligence|ai (model|assistant|system)|i'?m (just )?an? (ai|chatbot|machine|program|bot)\b"
    r"|i am (just )?an? (ai|chatbot|machine|program|bot)\b|digital (assistant|entity|being)|virtual assistant"
    r"|(don't|do not) (have|possess) (any )?(personal|feelings|emotions|memories|a physical))",
    re.IGNORECASE,
)
CONTRACTION = re.compile(r"\b\w+(n't|'(re|ve|ll|d|m))\b|\b(it|that|there|here|what|who|how|where|let|he|she)'s\b", re.IGNORECASE)
FIRST_PERSON = re.compile(r"\b(i|i'\w+|me|my|mine|myself)\b", re.IGNORECASE)
INTERJECTION = re.compile(r"\b(oh|wow|haha|ha|hey|honestly|yeah|hmm|ooh|aw|man|okay|well|totally|gosh|ugh)\b[,.!?]?", re.IGNORECASE)
MARKDOWN = re.compile(r"^\s*(\d{1,2}[.)]|[-*•]|#{1,6})\s|\*\*\S", re.MULTILINE)
FORMAL = re.compile(
    r"\b(individuals?|it is (advisable|recommended|important|worth|hoped)|generally|typically|furthermore|moreover|additionally|in general|regarding"
    r"|considerably|numerous|various|therefore|nevertheless|inquiry|upon request|good day|greetings|assistance|assist you)\b",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    return text.replace("’", "'")


def words(text: str) -> int:
    return len(re.findall(r"\w+(?:'\w+)?", plain(text)))


def asks_back(text: str) -> bool:
    """Whether the answer ends in a question, emoji after it not counted."""
    return blank(text).rstrip(" \n\t\"'”)*").endswith("?")


def per_100_words(pattern: re.Pattern) -> Callable[[str], float]:
    return lambda text: 100 * len(pattern.findall(plain(text))) / max(1, words(text))


@dataclass(frozen=True)
class Measure:
    name: str
    of: Callable[[str], float]
    share: bool  # a share of answers (0 or 1 each) rather than a mean


MEASURES = [
    Measure("words per answer", words, False),
    Measure("speaks of itself as an AI", lambda text: bool(AI.search(plain(text))), True),
    Measure("contractions per 100 words", per_100_words(CONTRACTION), False),
    Measure("first person per 100 words", per_100_words(FIRST_PERSON), False),
    Measure("ends with a question back", asks_back, True),
    Measure("has an emoji", lambda text: bool(found(text)), True),
    Measure("has markdown (lists, bold, headings)", lambda text: bool(MARKDOWN.search(text)), True),
]


def friendliness(text: str) -> int:
    """Signs of talk between friends minus signs of an office letter; each sign counts once, from -3 to +5."""
    text = plain(text)
    ai = bool(AI.search(text))
    friend = [CONTRACTION.search(text), FIRST_PERSON.search(text) and not ai, INTERJECTION.search(text) or "!" in text, asks_back(text), found(text)]
    office = [ai, FORMAL.search(text), MARKDOWN.search(text)]
    return sum(map(bool, friend)) - sum(map(bool, office))


def friendlier(tuned: str, base: str) -> bool:
    """Whether the rule tells the tuned answer from the base's, in the right direction. A tie is no."""
    return friendliness(tuned) > friendliness(base)


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927). n must be positive."""
    p = successes / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def newcombe(a: tuple[float, float, float], b: tuple[float, float, float]) -> tuple[float, float]:
    """95 % interval of b less a from (value, low, high) of each (Newcombe 1998, method 10): where no item differs, and a bootstrap would claim certainty."""
    return b[0] - a[0] - math.hypot(b[0] - b[1], a[2] - a[0]), b[0] - a[0] + math.hypot(b[2] - b[0], a[0] - a[1])


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` (one per question), by resampling questions."""
    rng = np.random.default_rng(SEED)
    means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
    return tuple(np.percentile(means, [2.5, 97.5]))


def compare(answers: list[dict]) -> list[dict]:
    """One row a measure: base, tuned and the paired difference, each as (value, low, high). Shares have Wilson intervals, means and all
    differences a bootstrap over questions. `answers` rows hold `base` and `tuned` texts to the same question."""
    rows = []
    for measure in MEASURES:
        base, tuned = (np.array([float(measure.of(row[who])) for row in answers]) for who in ("base", "tuned"))
        single = (lambda v: wilson(int(v.sum()), len(v))) if measure.share else bootstrap
        rows.append(
            {
                "measure": measure.name,
                "share": measure.share,
                "n": len(answers),
                "base": (base.mean(), *single(base)),
                "tuned": (tuned.mean(), *single(tuned)),
                "difference": ((tuned - base).mean(), *bootstrap(tuned - base)),
            }
        )
    return rows


def told_apart(answers: list[dict]) -> dict:
    told = sum(friendlier(row["tuned"], row["base"]) for row in answers)
    return {"told": told, "n": len(answers), "share": told / len(answers), "interval": wilson(told, len(answers))}


def show(value: tuple[float, float, float], share: bool, signed: bool = False) -> str:
    scale, unit = (100, " points" if signed else " %") if share else (1, "")
    form = "{:+.1f}" if signed else "{:.1f}"
    return f"{form.format(value[0] * scale)}{unit} [{form.format(value[1] * scale)}, {form.format(value[2] * scale)}]"


def read_answers(path: Path) -> list[dict]:
    rows = read_jsonl(path, "answers, from `make answers`")
    if not rows:
        raise UserError(f"{path}: holds no answers; run `make answers`")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path)
    args = parser.parse_args()
    answers = read_answers(args.answers)
    print(f"{len(answers)} questions; 95 % intervals in brackets ({args.answers})")
    print(f"{'':38} {'base':>24} {'tuned':>24} {'difference':>26}")
    for row in compare(answers):
        print(f"{row['measure']:38} {show(row['base'], row['share']):>24} {show(row['tuned'], row['share']):>24} {show(row['difference'], row['share'], True):>26}")
    told = told_apart(answers)
    print(f"tuned answers that the rule calls friendlier than the base's: {told['told']} of {told['n']}, {show((told['share'], *told['interval']), True)}")


if __name__ == "__main__":
    entry(main)
