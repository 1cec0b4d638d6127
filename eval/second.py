"""A second scorer, which makes no pairs: it tells the two sides of a data set apart by runs of letters, and knows no trait of `eval.traits`.

    python -m eval.second data/tiny/pairs.jsonl data/tiny/second.json --heldout data/tiny/tiny/heldout.jsonl --rest data/tiny/other-half.jsonl

A model that was trained on pairs of a score pleases that score; whether anything else moved, only another scorer can say. This one is a logistic regression
on TF-IDF of runs of two to four letters within words, in lower case, each text brought to length 1: no counts of words, no case, nothing of the first scorer.
It is fitted on one half of the set's training questions, by their hash; `--rest` writes the other half, for weights of the first scorer. What it is worth is
measured on the held-out pairs, which neither half holds. What it knows is the two styles of this one set: no more than that is "human-like" to it.
"""

import argparse
import functools
from pathlib import Path

import numpy as np

from datagen.files import UserError, canonical, entry, read_json, read_jsonl, sha256, write_json, write_jsonl
from datagen.format import read_pairs
from datagen.traits.contrast import Pair, game, reply, said
from eval import traits
from eval.surface import wilson

FORM = "second scorer, 1"
FEW = 20  # pairs to fit on
RUNS = {"analyzer": "char_wb", "ngram_range": (2, 4), "lowercase": True, "sublinear_tf": True}
RARE, MOST = 3, 50_000  # runs in fewer texts are left out, and those that are the rarest beyond so many


def mine(pair: Pair) -> bool:
    """Whether a pair belongs to the half that this scorer is fitted on: by the hash of its question, so equal questions stay together."""
    return int(sha256(f"second {pair.group}")[:8], 16) % 2 == 1


def text_of(pair: Pair, side: str) -> str:
    return "\n".join(said(pair.kind, getattr(pair, side)))


def fit(pairs: list[Pair]) -> dict:
    """{runs: {run of letters: [idf, weight]}, intercept}."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = [text_of(pair, side) for side in ("human", "other") for pair in pairs]
    runs = TfidfVectorizer(**RUNS, min_df=RARE, max_features=MOST)
    model = LogisticRegression(C=10, solver="liblinear", random_state=0).fit(runs.fit_transform(texts), [1] * len(pairs) + [0] * len(pairs))
    names = runs.get_feature_names_out()
    return {"runs": {name: [float(i), float(w)] for name, i, w in zip(names, runs.idf_, model.coef_[0], strict=True)}, "intercept": float(model.intercept_[0])}


@functools.cache
def vectoriser(runs: tuple[str, ...], idf: tuple[float, ...]):
    from sklearn.feature_extraction.text import TfidfVectorizer

    made = TfidfVectorizer(**RUNS, vocabulary=list(runs))
    made.idf_ = np.array(idf)
    return made


def raw(scorer: dict, texts: list[str]) -> np.ndarray:
    """[texts] logits: over 0, more like the human-like side of the set that the scorer was fitted on."""
    names = tuple(scorer["runs"])
    idf, weight = zip(*scorer["runs"].values(), strict=True)
    return vectoriser(names, idf).transform(texts) @ np.array(weight) + scorer["intercept"]


def worth(human: np.ndarray, other: np.ndarray) -> dict:
    """What scores of the two sides are worth: AUC over all cross pairs, and how often the human-like side of a pair is the higher one (ties by half)."""
    rng, n = np.random.default_rng(1), len(human)
    draws = rng.integers(0, n, (1000, n))
    low, high = np.percentile([traits.separation(human[draw], other[draw]) for draw in draws], [2.5, 97.5])
    higher = float((np.sign((human - other).round(9)) + 1).sum() / 2)
    return {
        "auc": {"value": traits.separation(human, other), "low": float(low), "high": float(high), "n": n},
        "pairwise": {"value": higher / n, **dict(zip(("low", "high"), wilson(higher, n), strict=True)), "n": n},
    }


def load(path: Path) -> dict:
    """The scorer of a file, or {"reason": …} where its set was too small. Raises UserError for a file that was changed, or is none."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("form") != FORM:
        raise UserError(f"{path}: not a second scorer ({FORM}); make one: python -m eval.second PAIRS {path}")
    told = value.pop("sha256", None)
    if told != sha256(canonical(value)):
        raise UserError(f"{path}: was changed after it was written; make it again: python -m eval.second PAIRS {path}")
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help="a contrastive set: a file, or the id of a Hub data set")
    parser.add_argument("out", type=Path)
    parser.add_argument("--heldout", type=Path, help="its held-out pairs, from `make format`; without them the other half is held out")
    parser.add_argument("--rest", type=Path, help="where to write the rows of the half that this scorer does not see")
    args = parser.parse_args()
    rows, places = read_pairs(args.pairs)
    pairs = [game(row, place) if "game_id" in row else reply(row, place) for row, place in zip(rows, places, strict=True)]
    if args.heldout:
        held = [reply(row | {"prompt": row["messages"]}, args.heldout.name) for row in read_jsonl(args.heldout, "held-out questions, from `make format`")]
    else:
        held = [pair for pair in pairs if not mine(pair)]
    out = {pair.group for pair in held}
    train = [pair for pair in pairs if mine(pair) and pair.group not in out]
    value = {"form": FORM, "fitted on": {"file": Path(args.pairs).name, "sha256": sha256(canonical(rows)), "pairs": len(train)}}
    if min(len(train), len(held)) < FEW:
        value |= {"reason": f"too few pairs: {len(train)} to fit on and {len(held)} held out; {FEW} of each are needed"}
    else:
        value |= fit(train)
        value |= {"worth": worth(*(raw(value, [text_of(pair, side) for pair in held]) for side in ("human", "other")))}
    if args.rest:
        write_jsonl(args.rest, [row for pair, row in zip(pairs, rows, strict=True) if not mine(pair) and pair.group not in out])
    write_json(args.out, value | {"sha256": sha256(canonical(value))})
    if "reason" in value:
        print(f"second scorer: {value['reason']}")
        return
    auc, pairwise = value["worth"]["auc"], value["worth"]["pairwise"]
    print(
        f"second scorer, fitted on {len(train)} pairs, tried on {len(held)} held out: AUC {auc['value']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}],"
        f" picks the human-like side in {pairwise['value']:.3f} [{pairwise['low']:.3f}, {pairwise['high']:.3f}] -> {args.out}"
    )


if __name__ == "__main__":
    entry(main)
