"""Near-duplicates of short texts: Jaccard similarity of word pairs, found exactly and without comparing all with all."""

import re
from collections import defaultdict


def features(text: str) -> frozenset[tuple[str, str]]:
    """The word pairs of a text in lower case, its edges included; apostrophes are dropped, so `what's` and `whats` agree."""
    words = re.findall(r"\w+", text.lower().replace("'", "").replace("’", ""))
    return frozenset(zip(["^", *words], [*words, "$"], strict=True))


class Near:
    """Texts seen so far. A pair with similarity >= t shares a feature among the first |x| - ceil(t|x|) + 1 of each, in any fixed
    order of all features (prefix filtering: Chaudhuri et al., ICDE 2006); ordering by length puts the rarer word pairs first."""

    def __init__(self, threshold: float):
        self.threshold, self.seen, self.index = threshold, [], defaultdict(list)

    def prefix(self, features: frozenset) -> list:
        needed = -int(-self.threshold * len(features) // 1)  # ceil
        return sorted(features, key=lambda pair: (-len(pair[0]) - len(pair[1]), pair))[: len(features) - needed + 1]

    def matches(self, text: str) -> list[int]:
        """Positions of the earlier texts that are near-duplicates of `text`."""
        mine = features(text)
        candidates = {i for feature in self.prefix(mine) for i in self.index[feature]}
        return sorted(i for i in candidates if len(mine & self.seen[i]) >= self.threshold * len(mine | self.seen[i]))

    def add(self, text: str) -> int:
        self.seen.append(features(text))
        for feature in self.prefix(self.seen[-1]):
            self.index[feature].append(len(self.seen) - 1)
        return len(self.seen) - 1
