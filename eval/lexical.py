"""Lexical diversity of what somebody says: type-token ratio, distinct-n, and the moving-average type-token ratio, which does not fall with length.

    python -m eval.lexical README.md datagen/roleplay/goals.yaml      # each measure at several lengths of a text: which of them move

Type-token ratio (TTR) and distinct-n (Li et al. 2016) fall as a text grows, because words come back. Groups whose dialogues differ in length cannot be
compared with them (LLM Roleplay, arXiv 2407.03974, Table 2, does). The moving-average TTR (Covington and McFall 2010) is the mean TTR of all windows of 50
words in a row; its expectation does not depend on the length. Measured on the text of that paper (14,410 words), from pieces of 100 words to
pieces of 4,000: TTR 0.703 to 0.339, distinct-2 0.920 to 0.734, MATTR 0.792 to 0.796. HD-D, the other usual choice, went from 0.822 (100) to 0.889 (2,000).
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from datagen.files import UserError, entry, read_text
from eval.surface import plain

WINDOW = 50  # words, as usual; a shorter text has no value
LENGTHS = (100, 200, 400, 1000, 4000)


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+(?:'\w+)*", plain(text).casefold())


def distinct(words: list[str], n: int = 1) -> float | None:
    """Distinct n-grams to all n-grams; with n = 1 the type-token ratio. None of a text with no n-gram."""
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def mattr(words: list[str], window: int = WINDOW) -> float | None:
    """The mean type-token ratio of all windows, in time len(words). None of a text shorter than one window."""
    if len(words) < window:
        return None
    inside = Counter(words[:window])
    types = total = len(inside)
    for i in range(window, len(words)):
        left = words[i - window]
        inside[left] -= 1
        types -= not inside[left]
        types += not inside[words[i]]
        inside[words[i]] += 1
        total += types
    return total / (len(words) - window + 1) / window


def at_length(words: list[str], length: int, measure) -> float | None:
    """The mean of a measure over the whole pieces of `length` words of a text: what a text of that length has."""
    pieces = [measure(words[i : i + length]) for i in range(0, len(words) - length + 1, length)]
    return sum(pieces) / len(pieces) if pieces and None not in pieces else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+")
    args = parser.parse_args()
    words = [word for path in args.text for word in tokens(read_text(path, "a text"))]
    if len(words) < LENGTHS[0]:
        raise UserError(f"{len(words)} words: give at least {LENGTHS[0]}")
    measures = {"TTR = distinct-1": distinct, "distinct-2": lambda part: distinct(part, 2), f"MATTR {WINDOW}": mattr}
    lengths = [length for length in LENGTHS if length <= len(words)]
    print(f"{len(words):,} words; mean over pieces of so many words\n{'':18}" + "".join(f"{length:>8,}" for length in lengths))
    for name, measure in measures.items():
        print(f"{name:18}" + "".join(f"{at_length(words, length, measure):>8.3f}" for length in lengths))


if __name__ == "__main__":
    entry(main)
