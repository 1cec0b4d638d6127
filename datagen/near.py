"""Near-duplicates of short texts: Jaccard similarity of word pairs, by MinHash and locality-sensitive hashing (Broder 1997; datasketch).

The threshold 0.7 was chosen on the 1,528 questions of the published data set: of pairs between 0.70 and 0.75 nearly all ask the same thing in
other words ("… any new hobbies or activities?" / "… any new hobbies or activities recently?"); between 0.60 and 0.70 pairs that differ
in their subject begin ("… for the upcoming holidays?" / "… weekend?"), and below 0.5 most do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasketch import MinHash

PERMUTATIONS, SEED, MISSED = 128, 1, 1e-3


def features(text: str) -> frozenset[tuple[str, str]]:
    """The word pairs of a text in lower case, its edges included; apostrophes are dropped, so `what's` and `whats` agree."""
    words = re.findall(r"\w+", text.lower().replace("'", "").replace("’", ""))
    return frozenset(zip(["^", *words], [*words, "$"], strict=True))


class Near:
    """Texts seen so far. Candidates of the hash tables are verified exactly, so no match is wrong; of pairs right at the threshold at most
    one in a thousand is missed. Holds about 9 KB a text."""

    def __init__(self, threshold: float):
        from datasketch import MinHashLSH  # not at every start of a program: it brings scipy, half a second

        self.threshold, self.seen = threshold, []
        # b tables of r hashes each miss a pair of similarity s with (1 - s^r)^b: the longest r that still misses next to none.
        rows = max((r for r in range(2, PERMUTATIONS // 2 + 1) if (1 - threshold**r) ** (PERMUTATIONS // r) <= MISSED), default=1)
        self.tables = MinHashLSH(num_perm=PERMUTATIONS, params=(PERMUTATIONS // rows, rows))
        self.last: tuple[str, MinHash] | None = None

    def _hash(self, text: str, mine: frozenset) -> MinHash:
        if self.last is None or self.last[0] != text:  # a text is usually looked up and then added
            from datasketch import MinHash

            sketch = MinHash(num_perm=PERMUTATIONS, seed=SEED)
            sketch.update_batch([" ".join(pair).encode("utf-8", "replace") for pair in sorted(mine)])
            self.last = text, sketch
        return self.last[1]

    def matches(self, text: str) -> list[int]:
        """Positions of the earlier texts that are near-duplicates of `text`."""
        mine = features(text)
        candidates = self.tables.query(self._hash(text, mine))
        return sorted(i for i in candidates if len(mine & self.seen[i]) >= self.threshold * len(mine | self.seen[i]))

    def add(self, text: str) -> int:
        mine = features(text)
        self.tables.insert(len(self.seen), self._hash(text, mine))
        self.seen.append(mine)
        return len(self.seen) - 1
