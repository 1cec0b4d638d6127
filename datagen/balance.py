"""Builds a variant of a preference set in which length and emoji no longer tell chosen from rejected, so that their effect can be studied.

    balance: {length: matched, emoji: stripped}        # in datagen/config.yaml; `make audit` says which of the two a set needs

`emoji: stripped` takes every emoji out of both answers, with what would show that it stood there (datagen.emojis). `length: matched` keeps the largest subset in
which longer-chosen and longer-rejected pairs mirror each other: each kept pair whose chosen answer is longer by some factor has a
partner, of about the same overall length, whose rejected answer is longer by that factor within CALIPER. Matching loses pairs:
at most twice the smaller of the two groups can stay, besides pairs of equal length. No text is cut or invented.
"""

import math
import re
from collections import defaultdict

from datagen.emojis import UNSPACED, remove

CALIPER = 0.1  # partners differ by at most this much in |log(words of chosen / words of rejected)|
STRATUM = 0.4  # width of the strata of overall length, in log words: partners are within a factor of 1.5

# In scripts that put no spaces between words, each character counts as a word.
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+(?:['’][^\W{UNSPACED}]+)?")


def length(text: str) -> int:
    """Words of a text; in scripts without spaces (Chinese, Japanese, Thai, …), characters."""
    return len(WORD.findall(text))


def without_emoji(text: str) -> str:
    """The text without its emoji, and then without outer white space; one that has none comes back as it is."""
    left, removed = remove(text)
    return left.strip() if removed else text


def match_lengths(pairs: list[tuple[str, str]]) -> list[int]:
    """Positions of the pairs to keep, in order: every pair of equal length, and the most pairs that have a mirror image (module docstring).

    Within a stratum both signs are sorted by the size of the log ratio and matched from the smallest up; for a caliper, that gives the largest
    matching. Deterministic: ties go by position.
    """
    keep, strata = [], defaultdict(lambda: ([], []))
    for i, pair in enumerate(pairs):
        chosen, rejected = (math.log(max(1, length(text))) for text in pair)
        if chosen == rejected:
            keep.append(i)
        else:
            strata[int((chosen + rejected) / 2 / STRATUM)][chosen < rejected].append((abs(chosen - rejected), i))
    for _, sides in sorted(strata.items()):
        longer, shorter = map(sorted, sides)
        a = b = 0
        while a < len(longer) and b < len(shorter):
            if abs(longer[a][0] - shorter[b][0]) <= CALIPER:
                keep += [longer[a][1], shorter[b][1]]
                a, b = a + 1, b + 1
            elif longer[a] < shorter[b]:
                a += 1
            else:
                b += 1
    return sorted(keep)


def balance(pairs: list[tuple[str, str]], length: str = "as-is", emoji: str = "as-is") -> tuple[list[int], list[tuple[str, str]], dict[str, int]]:
    """(positions kept, their new (chosen, rejected) texts, pairs dropped by reason) of `pairs` of (chosen, rejected) texts, order kept.

    `length` is "as-is" or "matched", `emoji` "as-is" or "stripped"; emoji go first, so lengths are those of the texts that stay.
    """
    dropped = {"nothing but emoji": 0, "equal without emoji": 0, "no partner of mirrored length": 0}
    kept, texts = [], []
    for i, pair in enumerate(pairs):
        new = tuple(map(without_emoji, pair)) if emoji == "stripped" else tuple(pair)
        if new != tuple(pair) and (not all(map(str.strip, new)) or new[0] == new[1]):
            dropped["equal without emoji" if all(map(str.strip, new)) else "nothing but emoji"] += 1
            continue
        kept.append(i)
        texts.append(new)
    if length == "matched":
        chosen = match_lengths(texts)
        dropped["no partner of mirrored length"] = len(texts) - len(chosen)
        kept, texts = [kept[i] for i in chosen], [texts[i] for i in chosen]
    return kept, texts, dropped
